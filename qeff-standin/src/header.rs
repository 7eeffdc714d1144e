//! The text of `QAicApi.h`, as far as somebody who binds the library has to read it.
//!
//! Written by us from the published facts. `QAicProgramProperties_t` has grown between versions, and its members have no
//! published offsets: hence two forms, in which `devMapping` stands at different places.

use crate::config::{Layout, SimConfig};

/// Where the members of `QAicProgramProperties_t` are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    /// Size of all of it.
    pub size: usize,
    /// `const char *devMapping`.
    pub dev_mapping: usize,
    /// `uint32_t dataPathTimeoutMs`, where there is one.
    pub timeout: Option<usize>,
}

impl Properties {
    /// Those of a layout.
    pub fn of(layout: Layout) -> Self {
        match layout {
            Layout::Classic => Properties { size: 32, dev_mapping: 16, timeout: None },
            Layout::New => Properties { size: 48, dev_mapping: 32, timeout: Some(12) },
        }
    }
}

/// The header.
pub fn text(config: &SimConfig) -> String {
    let [major, minor] = config.header_version;
    let members = match config.layout {
        Layout::Classic => {
            "    uint32_t selectMask;\n    uint32_t SubmitNumRetries;\n    uint32_t SubmitRetryTimeoutMs;\n    \
             const char *devMapping; /* \"0:1:2:3\", in the order of the partition */\n    uint64_t reserved;\n"
        }
        Layout::New => {
            "    uint32_t selectMask;\n    uint32_t SubmitNumRetries;\n    uint32_t SubmitRetryTimeoutMs;\n    \
             uint32_t dataPathTimeoutMs;\n    uint64_t reserved[2];\n    \
             const char *devMapping; /* \"0:1:2:3\", in the order of the partition */\n    uint64_t reserved2;\n"
        }
    };
    format!(
        "/* Stands for the header of the Cloud AI 100 SDK in tests. Not Qualcomm's, and not complete. */\n\
         #ifndef QAICAPI_H\n#define QAICAPI_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n\
         #define LRT_LIB_MAJOR_VERSION {major}\n#define LRT_LIB_MINOR_VERSION {minor}\n\n\
         typedef int32_t QID;\ntypedef struct QAicContext QAicContext;\ntypedef struct QAicQpcObj QAicQpcObj;\n\
         typedef struct QAicProgram QAicProgram;\ntypedef struct QAicQueue QAicQueue;\n\
         typedef struct QAicExecObj QAicExecObj;\ntypedef struct QAicEvent QAicEvent;\n\n\
         typedef struct {{\n    size_t size;\n    uint8_t *buf;\n    uint64_t handle;\n    uint32_t offset;\n    \
         uint32_t type;\n}} QBuffer;\n\n\
         typedef struct {{\n    size_t size;\n    uint8_t *data;\n}} QData;\n\n\
         typedef struct {{\n    uint32_t count;\n    uint32_t sizeOfElem;\n    uint32_t *dims;\n}} QBufferDimensions;\n\n\
         typedef struct QAicProgramProperties {{\n{members}}} QAicProgramProperties_t;\n\n\
         typedef struct {{\n    uint32_t properties;\n    uint32_t numThreadsPerQueue;\n}} QAicQueueProperties;\n\n\
         #endif\n"
    )
}
