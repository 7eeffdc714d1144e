//! Recordings and features: files of all kinds, and the numbers of Hugging Face's feature extractors.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use qeff::fixture;
use qeff_host::audio::extractor::Samples;
use qeff_host::audio::mel::Sizes;
use qeff_host::audio::{AudioError, Extractor, Features, Limits, LogMel, Waveform, read};
use safetensors::SafeTensors;

fn recording(name: &str) -> PathBuf {
    fixture("audio").join(name)
}

fn decoded(name: &str) -> Waveform {
    read(&recording(name), 16_000, Limits::default()).unwrap()
}

/// A tensor of what other programs make of the recordings.
fn expected(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(recording("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn frames(name: &str) -> Vec<usize> {
    let bytes = std::fs::read(recording("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = tensors.tensor(&format!("{name}.frames")).unwrap().data().to_vec();
    numbers.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize).collect()
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
}

#[track_caller]
fn check_features(name: &str, found: &Features) {
    let expected = expected(name);
    for (frame, expected) in frames(name).into_iter().zip(expected.chunks_exact(found.mels)) {
        let column: Vec<f32> = found.data.iter().skip(frame).step_by(found.frames).copied().collect();
        let worst = worst(&column, expected);
        assert!(worst < 1e-4, "{name}, frame {frame}: {worst}");
    }
}

const WHISPER: Sizes = Sizes { rate: 16_000, mels: 80, fft: 400, hop: 160, samples: 480_000, padding: 0.0 };

#[test]
fn log_mel_features_are_those_of_whispers_extractor() {
    let jfk = decoded("jfk.wav");
    for (name, mels) in [("whisper-80", 80), ("whisper-128", 128)] {
        let features = LogMel::new(Sizes { mels, ..WHISPER }).first_window(&jfk.samples);
        assert_eq!((features.mels, features.frames), (mels, 3_000));
        check_features(name, &features);
    }
}

#[test]
fn log_mel_features_of_odd_sizes() {
    let odd = Sizes { mels: 40, fft: 301, hop: 117, samples: 48_000, padding: 0.125, ..WHISPER };
    check_features("whisper-odd", &LogMel::new(odd).first_window(&decoded("jfk.wav").samples[..30_000]));
}

#[test]
fn features_of_a_long_recording_are_made_at_once() {
    let features = LogMel::new(Sizes { samples: 32_000, ..WHISPER }).features(&decoded("jfk.wav").samples);
    assert_eq!(features.frames, 500);
    check_features("whisper-long", &features);
    // A window past the end is filled up with zeros.
    let window = features.window(400, 200);
    assert_eq!((window.mels, window.frames), (80, 200));
    assert_eq!(window.data[..100], features.data[400..500]);
    assert_eq!(window.data[100..200], [0.0; 100]);
}

#[test]
fn samples_are_normalised_as_by_wav2vec2s_extractor() {
    let jfk = decoded("jfk.wav");
    for (name, normalise) in [("wav2vec2", true), ("wav2vec2-raw", false)] {
        let found = Samples { rate: 16_000, normalise }.prepare(&jfk);
        let found: Vec<f32> = found.into_iter().step_by(100).collect();
        assert!(worst(&found, &expected(name)) < 1e-5, "{name}");
    }
}

#[test]
fn encodings_of_wav() {
    for name in ["float.wav", "24-bit.wav", "8-bit.wav", "a-law.wav", "mu-law.wav"] {
        assert!(worst(&decoded(name).samples, &expected(&format!("decoded.{name}"))) < 1e-6, "{name}");
    }
}

#[test]
fn mp3() {
    let found = decoded("mono-16k.mp3").samples;
    let expected = expected("decoded.mono-16k.mp3");
    // Another decoder rounds in other places.
    let found: Vec<f32> = found.into_iter().step_by(10).collect();
    assert!(worst(&found, &expected) < 2e-4);
}

#[test]
fn flac_of_two_channels_at_another_rate() {
    let found = decoded("stereo-22k.flac").samples;
    let expected = expected("resampled.stereo-22k.flac");
    // 12000.4 samples, rounded up; the other library rounds them down.
    assert_eq!((found.len(), expected.len()), (12_001, 12_000));
    // Another filter, which differs where the recording begins and ends, and near 8 kHz.
    let middle = 1_000..11_000;
    let worst = worst(&found[middle.clone()], &expected[middle]);
    assert!(worst < 2e-3, "{worst}");
}

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(qeff::root().join("snapshots/audio"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

/// What is said about a file of these bytes.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sound");
    std::fs::write(&path, bytes).unwrap();
    let error = read(&path, 16_000, Limits::default()).unwrap_err();
    error.to_string().replace(&path.display().to_string(), "FILE")
}

#[test]
fn what_is_no_recording_is_refused() {
    let wav = std::fs::read(recording("float.wav")).unwrap();
    settings().bind(|| {
        insta::assert_snapshot!(
            "what_is_no_recording",
            [
                refusal(b""),
                refusal(b"{\"not\": \"sound\"}"),
                refusal(&[0; 5_000]),
                refusal(&wav[..20]),
                refusal(&wav[..wav.len() / 2]),
                refusal(&silence(16_000, 0)),
                refusal(&silence(1, 10)),
                refusal(&silence(4_000_000_000, 10)),
                read(Path::new("/"), 16_000, Limits::default()).unwrap_err().to_string(),
            ]
            .join("\n")
        )
    });
}

/// A wav file of 16 bits.
fn silence(rate: u32, samples: u32) -> Vec<u8> {
    let length = 2 * samples;
    let mut file = vec![];
    file.extend(b"RIFF");
    file.extend((36 + length).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16u32.to_le_bytes());
    file.extend([1u16, 1].map(u16::to_le_bytes).concat());
    file.extend([rate, rate.wrapping_mul(2)].map(u32::to_le_bytes).concat());
    file.extend([2u16, 16].map(u16::to_le_bytes).concat());
    file.extend(b"data");
    file.extend(length.to_le_bytes());
    file.resize(file.len() + length as usize, 0);
    file
}

#[test]
fn a_sample_that_is_no_number_is_damage() {
    let mut wav = std::fs::read(recording("float.wav")).unwrap();
    let end = wav.len();
    wav[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    insta::assert_snapshot!(refusal(&wav), @"FILE is damaged after 0.07 s: a sample is no finite number; expected a whole wav, flac or mp3 file");
}

#[test]
fn a_recording_has_a_greatest_length() {
    let error = read(&recording("jfk.wav"), 16_000, Limits { seconds: 4 }).unwrap_err();
    assert!(matches!(error, AudioError::TooLong { most: 4, .. }), "{error}");
    assert_eq!(read(&recording("jfk.wav"), 16_000, Limits { seconds: 5 }).unwrap().samples.len(), 80_000);
}

#[test]
fn a_stream_that_does_not_know_its_length_is_read_to_its_end() {
    let mut wav = silence(16_000, 10_007);
    wav[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    wav[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("piped.wav");
    std::fs::write(&path, wav).unwrap();
    assert_eq!(read(&path, 16_000, Limits::default()).unwrap().samples.len(), 10_007);
}

/// What is said about a checkpoint with this preprocessor_config.json.
fn extractor(text: &str) -> Result<Extractor, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("preprocessor_config.json"), text).unwrap();
    let path = folder.path().display().to_string();
    Extractor::open(folder.path()).map_err(|error| error.to_string().replace(&path, "CHECKPOINT"))
}

#[test]
fn extractors_are_read_and_refused() {
    let Ok(Extractor::LogMel(log_mel)) =
        extractor(r#"{"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128}"#)
    else {
        panic!("log-mel");
    };
    assert_eq!((log_mel.mels(), log_mel.window_frames(), log_mel.rate), (128, 3_000, 16_000));
    let Ok(Extractor::Samples(samples)) =
        extractor(r#"{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": false}"#)
    else {
        panic!("samples");
    };
    assert_eq!(samples, Samples { rate: 16_000, normalise: false });
    let whisper =
        |fields: &str| extractor(&format!(r#"{{"feature_extractor_type": "WhisperFeatureExtractor", {fields}}}"#));
    let refused = [
        extractor("{"),
        extractor("{}"),
        extractor(r#"{"feature_extractor_type": "SeamlessM4TFeatureExtractor"}"#),
        extractor(r#"{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 80}"#),
        whisper(r#""dither": 0.1"#),
        whisper(r#""padding_side": "left""#),
        whisper(r#""n_fft": 0"#),
        whisper(r#""n_fft": 100000"#),
        whisper(r#""chunk_length": 0.01"#),
        whisper(r#""chunk_length": 1e9"#),
        whisper(r#""hop_length": 1"#),
        whisper(r#""sampling_rate": 5"#),
        whisper(r#""feature_size": 4294967296"#),
    ];
    let said: Vec<String> = refused.into_iter().map(|found| found.err().expect("a refusal")).collect();
    settings().bind(|| insta::assert_snapshot!("extractors", said.join("\n")));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Extractor::open(empty.path()), Err(AudioError::NoExtractor { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes that a stranger changed are sound or an error, never a panic.
    #[test]
    fn damaged_recordings_never_panic(
        which in 0..4usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let name = ["float.wav", "a-law.wav", "stereo-22k.flac", "mono-16k.mp3"][which];
        let mut bytes = std::fs::read(recording(name)).unwrap();
        for (place, byte, early) in changes {
            // Most of what can go wrong is said in the first bytes.
            let reach = if early { bytes.len().min(200) } else { bytes.len() };
            let place = place.index(reach);
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sound");
        std::fs::write(&path, bytes).unwrap();
        let _ = read(&path, 16_000, Limits { seconds: 60 });
    }
}
