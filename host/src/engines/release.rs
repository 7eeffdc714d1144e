//! The release of ONNX Runtime that is installed, pinned: what it is called on each platform, and what its bytes are.
//!
//! It comes in the project's Python package, which holds the whole library; Python is not needed to run it. Wheels for
//! different versions of Python hold the same library, so one of them is named.

/// The version.
pub const VERSION: &str = "1.31.1";

/// The release for one platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Platform, in Rust's words: system and processor.
    pub platform: (&'static str, &'static str),
    /// Platform, in pip's words.
    pub pip_platform: &'static str,
    /// SHA-256 of the wheel.
    pub wheel: &'static str,
    /// File name of the library.
    pub library: &'static str,
    /// SHA-256 of the library.
    pub library_sha256: &'static str,
}

/// Every platform that there is a release for.
pub const RELEASES: &[Release] = &[
    Release {
        platform: ("linux", "x86_64"),
        pip_platform: "manylinux_2_28_x86_64",
        wheel: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        library: "libonnxruntime.so.1.31.1",
        library_sha256: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
    },
    Release {
        platform: ("linux", "aarch64"),
        pip_platform: "manylinux_2_28_aarch64",
        wheel: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        library: "libonnxruntime.so.1.31.1",
        library_sha256: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
    },
    Release {
        platform: ("macos", "aarch64"),
        pip_platform: "macosx_14_0_arm64",
        wheel: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        library: "libonnxruntime.1.31.1.dylib",
        library_sha256: "d586cbe89effc085a09d3341b3cfbd5c322517f9d397aeb20814af21433f2b36",
    },
];

impl Release {
    /// The release for this machine.
    pub fn here() -> Option<&'static Release> {
        RELEASES.iter().find(|release| release.platform == (std::env::consts::OS, std::env::consts::ARCH))
    }

    /// Name of the folder that holds it.
    pub fn folder(&self) -> String {
        let (system, processor) = self.platform;
        format!("onnxruntime-{VERSION}-{system}-{processor}")
    }

    /// What pip is to be given: the version, and the only bytes that are accepted.
    pub fn requirement(&self) -> String {
        format!("onnxruntime=={VERSION} --hash=sha256:{}\n", self.wheel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_pinned_by_whole_hashes_and_named_after_the_version() {
        for release in RELEASES {
            for hash in [release.wheel, release.library_sha256] {
                assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
            }
            assert!(release.library.contains(VERSION), "{}", release.library);
        }
    }
}
