//! Segments as text for people: plain, srt, vtt.

/// A line of text and when it is said, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Beginning.
    pub start: f64,
    /// End.
    pub end: f64,
    /// The text.
    pub text: String,
}

/// A form of subtitles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// SubRip.
    Srt,
    /// WebVTT.
    Vtt,
}

/// The lines as a file of subtitles. Empty lines are left out.
pub fn write(lines: &[Line], form: Form) -> String {
    let mut file = match form {
        Form::Srt => String::new(),
        Form::Vtt => "WEBVTT\n\n".to_owned(),
    };
    let spoken = lines.iter().filter(|line| !line.text.trim().is_empty());
    for (number, line) in (1..).zip(spoken) {
        let times = match form {
            Form::Srt => format!("{number}\n{} --> {}", time(line.start, ','), time(line.end, ',')),
            Form::Vtt => format!("{} --> {}", time(line.start, '.'), time(line.end, '.')),
        };
        // An arrow within the text would be read as a time, an empty line as the end.
        let text: Vec<_> = line.text.trim().lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        file.push_str(&format!("{times}\n{}\n\n", text.join("\n").replace("-->", "->")));
    }
    file
}

/// `01:02:03,456`.
pub fn time(seconds: f64, point: char) -> String {
    let milliseconds = (seconds.max(0.0) * 1000.0).round() as u64;
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    format!("{:02}:{:02}:{:02}{point}{rest:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let line = |start, end, text: &str| Line { start, end, text: text.into() };
        vec![line(0.0, 1.9996, " And so, my fellow"), line(2.0, 2.5, "  "), line(3661.02, 3662.5, "a --> b\n\nc ")]
    }

    #[test]
    fn srt() {
        let expected = "1\n00:00:00,000 --> 00:00:02,000\nAnd so, my fellow\n\n\
                        2\n01:01:01,020 --> 01:01:02,500\na -> b\nc\n\n";
        assert_eq!(write(&lines(), Form::Srt), expected);
    }

    #[test]
    fn vtt() {
        let expected = "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nAnd so, my fellow\n\n\
                        01:01:01.020 --> 01:01:02.500\na -> b\nc\n\n";
        assert_eq!(write(&lines(), Form::Vtt), expected);
    }
}
