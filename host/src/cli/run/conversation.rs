//! Conversations about images, as a prompt or a file gives them, laid out by a chat template.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value as Json, json};

use crate::text::chat::ChatOptions;
use crate::text::{ChatTemplate, Content, Message, Tokenizer};
use crate::vision::marks::{Marks, PLACE, miscounted};

/// Largest file of a conversation that is read.
const MAX_FILE: u64 = 16 << 20;

/// Turns, and the images they show in order.
pub(super) struct Conversation {
    turns: Vec<Message>,
    pub(super) images: Vec<PathBuf>,
}

impl Conversation {
    /// A user's turn, after the system's if there is one.
    pub(super) fn of_turn(system: Option<&str>, text: &str, images: Vec<PathBuf>, marks: &Marks) -> Self {
        let mut parts = vec![];
        for (i, part) in marks.split(text).into_iter().enumerate() {
            if i > 0 {
                parts.push(json!({ "type": "image" }));
            }
            if !part.is_empty() {
                parts.push(json!({ "type": "text", "text": part }));
            }
        }
        let system = system.map(|text| Message::new("system", text));
        let user = Message { content: Content::Parts(parts), ..Message::new("user", "") };
        Conversation { turns: system.into_iter().chain([user]).collect(), images }
    }

    /// Reads turns from a file, a list or an object with the list `messages`. A part that is an image shows the file of its
    /// `path`, which is relative to the conversation's, or the next of `given`.
    pub(super) fn open(file: &Path, given: &[PathBuf]) -> Result<Self> {
        let size = fs_err::metadata(file)?.len();
        if size > MAX_FILE {
            bail!("{} has {size} bytes; expected a conversation of at most {MAX_FILE}", file.display());
        }
        let expected = "expected a JSON list of turns, {\"role\": …, \"content\": …} each";
        let json: Json = serde_json::from_slice(&fs_err::read(file)?)
            .with_context(|| format!("{} is not JSON: {expected}", file.display()))?;
        let list = json.get("messages").unwrap_or(&json).clone();
        let turns: Vec<Message> =
            serde_json::from_value(list).with_context(|| format!("{}: {expected}", file.display()))?;
        if turns.is_empty() {
            bail!("{} has no turns: {expected}", file.display());
        }
        let folder = file.parent().unwrap_or(Path::new(""));
        let (mut images, mut rest, mut places) = (vec![], given.iter(), 0);
        for part in turns.iter().flat_map(|turn| match &turn.content {
            Content::Parts(parts) => parts.as_slice(),
            _ => &[],
        }) {
            if part["type"] != "image" && part["type"] != "image_url" {
                continue;
            }
            let named = ["path", "url", "image", "image_url"].into_iter().find_map(|key| part.get(key));
            match named {
                None => {
                    places += 1;
                    images.extend(rest.next().cloned());
                }
                Some(Json::String(path)) if !path.contains("://") => images.push(folder.join(path)),
                Some(other) => bail!(
                    "{}: an image is {other}; expected the path of a file: download it, and give its path",
                    file.display()
                ),
            }
        }
        if places != given.len() {
            return Err(miscounted(places, given.len()).into());
        }
        Ok(Conversation { turns, images })
    }

    /// The text of the prompt, up to where the answer begins.
    pub(super) fn lay_out(&self, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<String> {
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let plain: Vec<Message>;
        let turns = if template.takes_parts() {
            &self.turns
        } else {
            plain = self.turns.iter().map(as_text).collect();
            &plain
        };
        Ok(tokenizer.render_chat(template, turns, &options)?)
    }
}

/// A turn for a template that knows text only.
fn as_text(turn: &Message) -> Message {
    let Content::Parts(parts) = &turn.content else { return turn.clone() };
    let text = |part: &Json| match part["type"].as_str() {
        Some("image" | "image_url") => PLACE.to_owned(),
        _ => part["text"].as_str().unwrap_or_default().to_owned(),
    };
    Message { content: Content::Text(parts.iter().map(text).collect()), ..turn.clone() }
}
