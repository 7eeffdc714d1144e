//! The tokens that a transcript begins with: start, language, task, and whether there are timestamps.

use anyhow::{Result, bail};

use super::languages;
use super::settings::Settings;

/// Which language is spoken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Language {
    /// What the checkpoint says; if it says nothing, the model is asked.
    #[default]
    Unsaid,
    /// The model is asked.
    Auto,
    /// This one, by name or code.
    Given(String),
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SpeechTask {
    /// It is written down.
    Transcribe,
    /// It is written down in English.
    Translate,
}

impl SpeechTask {
    /// The word of generation_config.json.
    pub fn name(self) -> &'static str {
        match self {
            SpeechTask::Transcribe => "transcribe",
            SpeechTask::Translate => "translate",
        }
    }
}

/// What somebody wants of a transcript.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// Which language is spoken.
    pub language: Language,
    /// What becomes of it; `None` is what the checkpoint says, else it is written down.
    pub task: Option<SpeechTask>,
    /// Whether there are timestamps.
    pub timestamps: bool,
}

/// The beginning of a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens; `None` is the language, which has to be found out.
    tokens: Vec<Option<u32>>,
}

impl Prompt {
    /// The prompt for a wish.
    ///
    /// # Errors
    /// If the model does not know the language or the task, or has no timestamps.
    pub fn new(settings: &Settings, wish: &Wish) -> Result<Self> {
        if wish.timestamps && settings.no_timestamps.is_none() {
            bail!(
                "timestamps need `no_timestamps_token_id` in generation_config.json, which this checkpoint does not have: \
                 leave them out"
            );
        }
        let said = wish.language != Language::Unsaid || wish.task.is_some();
        let mut tokens = vec![Some(settings.start)];
        if settings.multilingual {
            // Old checkpoints force tokens, which give way to any wish, be it their own.
            let by_file = settings.language.is_some() || settings.task.is_some();
            if !said && !by_file && !settings.forced.is_empty() {
                tokens.extend(&settings.forced);
            } else {
                tokens.extend(Self::language(settings, wish)?);
                tokens.extend(Self::task(settings, wish)?);
            }
        } else {
            let other = wish.language != Language::Unsaid && wish.language != Language::Given("en".into());
            if other || wish.task == Some(SpeechTask::Translate) {
                bail!("this model knows one language and cannot translate: leave --language and the task out");
            }
        }
        match (wish.timestamps, tokens.last() == Some(&settings.no_timestamps)) {
            (true, true) => _ = tokens.pop(),
            (false, false) => tokens.extend(settings.no_timestamps.map(Some)),
            _ => {}
        }
        Ok(Prompt { tokens })
    }

    fn language(settings: &Settings, wish: &Wish) -> Result<Option<Option<u32>>> {
        let given = match &wish.language {
            Language::Unsaid => settings.language.as_deref(),
            Language::Auto => None,
            Language::Given(language) => Some(language.as_str()),
        };
        // Without language tokens there is nothing to choose from.
        let Some(given) = given else { return Ok((!settings.languages.is_empty()).then_some(None)) };
        let code = languages::code(given.trim_start_matches("<|").trim_end_matches("|>"));
        match settings.languages.get(&code) {
            Some(&id) => Ok(Some(Some(id))),
            None if settings.languages.is_empty() => bail!(
                "the language {given} was given, but generation_config.json has no `lang_to_id`: leave --language out"
            ),
            None => {
                let known: Vec<_> = settings.languages.keys().map(String::as_str).collect();
                bail!("this model does not know the language {given}; expected auto or one of {}", known.join(", "))
            }
        }
    }

    fn task(settings: &Settings, wish: &Wish) -> Result<Option<Option<u32>>> {
        let by_file = settings.task.as_deref();
        let task = wish.task.map(SpeechTask::name).or(by_file).unwrap_or(SpeechTask::Transcribe.name());
        match settings.tasks.get(task) {
            Some(&id) => Ok(Some(Some(id))),
            None if settings.tasks.is_empty() && task == SpeechTask::Transcribe.name() => Ok(None),
            None => bail!("this model has no task {task}: generation_config.json has no token for it in `task_to_id`"),
        }
    }

    /// Whether the language has to be found out.
    pub fn asks_for_language(&self) -> bool {
        self.tokens.contains(&None)
    }

    /// The tokens, with `language` where that was open.
    pub fn tokens(&self, language: Option<u32>) -> Vec<u32> {
        self.tokens.iter().filter_map(|token| token.or(language)).collect()
    }
}

/// The likeliest language after the start of a transcript, whose scores are given; `None` if the model has no language tokens.
pub fn likeliest_language(settings: &Settings, scores: &[f32]) -> Option<u32> {
    let mut ids: Vec<u32> = settings.languages.values().copied().collect();
    ids.sort_unstable();
    let score = |id: u32| scores.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    ids.into_iter().fold(None, |best, id| match best {
        Some(best) if score(best) >= score(id) => Some(best),
        _ => Some(id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            start: 1,
            eos: vec![0],
            languages: [("de".to_owned(), 3), ("en".to_owned(), 2)].into(),
            tasks: [("transcribe".to_owned(), 5), ("translate".to_owned(), 4)].into(),
            multilingual: true,
            no_timestamps: Some(7),
            suppress: vec![],
            begin_suppress: vec![],
            forced: vec![],
            language: None,
            task: None,
            previous: None,
            latest_start: None,
            max_length: 20,
            max_new: None,
            positions: 20,
            frames: 100,
            mels: 80,
            vocab: 20,
        }
    }

    fn tokens(settings: &Settings, wish: &Wish) -> Vec<Option<u32>> {
        Prompt::new(settings, wish).unwrap().tokens
    }

    #[test]
    fn language_task_and_timestamps() {
        let wish = |language: &str, task, timestamps| Wish {
            language: Language::Given(language.to_owned()),
            task,
            timestamps,
        };
        let given = settings();
        assert_eq!(tokens(&given, &wish("en", None, false)), [1, 2, 5, 7].map(Some));
        assert_eq!(tokens(&given, &wish("German", Some(SpeechTask::Translate), true)), [1, 3, 4].map(Some));
        assert_eq!(tokens(&given, &wish("<|de|>", None, true)), [1, 3, 5].map(Some));
        assert_eq!(tokens(&given, &Wish::default()), [Some(1), None, Some(5), Some(7)]);
        let error = Prompt::new(&given, &wish("fr", None, false)).unwrap_err().to_string();
        assert_eq!(error, "this model does not know the language fr; expected auto or one of de, en");
    }

    #[test]
    fn what_a_checkpoint_forces_gives_way_to_wishes() {
        let forced = Settings { forced: vec![Some(3), Some(5), Some(7)], ..settings() };
        assert_eq!(tokens(&forced, &Wish::default()), [1, 3, 5, 7].map(Some));
        assert_eq!(tokens(&forced, &Wish { timestamps: true, ..Wish::default() }), [1, 3, 5].map(Some));
        let auto = Wish { language: Language::Auto, ..Wish::default() };
        assert_eq!(tokens(&forced, &auto), [Some(1), None, Some(5), Some(7)]);
        let open = Settings { forced: vec![None, Some(4)], ..settings() };
        assert_eq!(tokens(&open, &Wish::default()), [Some(1), None, Some(4), Some(7)]);
        let said = Settings { language: Some("de".into()), task: Some("translate".into()), ..forced };
        assert_eq!(tokens(&said, &Wish::default()), [1, 3, 4, 7].map(Some));
    }

    #[test]
    fn a_model_of_one_language_has_no_choice() {
        let english = Settings { multilingual: false, languages: [].into(), tasks: [].into(), ..settings() };
        assert_eq!(tokens(&english, &Wish::default()), [1, 7].map(Some));
        let german = Wish { language: Language::Given("de".into()), ..Wish::default() };
        assert!(Prompt::new(&english, &german).is_err());
        let silent = Settings { no_timestamps: None, ..english };
        assert!(Prompt::new(&silent, &Wish { timestamps: true, ..Wish::default() }).is_err());
    }

    #[test]
    fn the_likeliest_language_is_none_of_the_other_tokens() {
        let scores: Vec<f32> = (0..20).map(|id| if id == 2 { 1.5 } else { id as f32 / 2.0 - 0.2 }).collect();
        assert_eq!(likeliest_language(&settings(), &scores), Some(2));
    }
}
