//! The structures of the C functions, in their published layouts.

use std::ffi::c_char;
use std::ptr;

use crate::qpc::network::Network;

#[repr(C)]
pub struct QBuffer {
    pub(super) size: usize,
    pub(super) buf: *mut u8,
    pub(super) handle: u64,
    pub(super) offset: u32,
    pub(super) kind: u32,
}

#[repr(C)]
pub struct QData {
    pub(super) size: usize,
    pub(super) data: *mut u8,
}

#[repr(C)]
pub struct QBufferDimensions {
    pub(super) count: u32,
    pub(super) size_of_elem: u32,
    pub(super) dims: *mut u32,
}

#[repr(C)]
pub struct QAicBufferMappings {
    pub(super) name: *mut c_char,
    pub(super) index: u32,
    pub(super) io_type: u32,
    pub(super) size: u32,
    pub(super) partial: bool,
    pub(super) data_type: u32,
}

#[repr(C)]
pub struct QAicIoBufferInfo {
    pub(super) count: u32,
    pub(super) mappings: *mut QAicBufferMappings,
}

#[repr(C)]
pub struct QAicQpcProgramInfo {
    pub(super) name: [u8; 64],
    pub(super) index: u32,
    pub(super) cores: u32,
    pub(super) size: u32,
    pub(super) io: QAicIoBufferInfo,
    pub(super) dma: QAicIoBufferInfo,
    pub(super) batch: u32,
}

#[repr(C)]
pub struct QAicQpcConstantsInfo {
    pub(super) name: [u8; 64],
    pub(super) index: u32,
    pub(super) size: u32,
}

#[repr(C)]
pub struct QAicQpcInfo {
    pub(super) programs: u32,
    pub(super) program: *mut QAicQpcProgramInfo,
    pub(super) constants: u32,
    pub(super) constant: *mut QAicQpcConstantsInfo,
}

#[repr(C)]
pub struct QResourceInfo {
    pub(super) reservation: i32,
    pub(super) dram_total: u64,
    pub(super) dram_free: u64,
    pub(super) vc_total: u8,
    pub(super) vc_free: u8,
    pub(super) nsp_total: u8,
    pub(super) nsp_free: u8,
    pub(super) mcid_total: u32,
    pub(super) mcid_free: u32,
    pub(super) sem_total: u32,
    pub(super) sem_free: u32,
    pub(super) pc_total: u8,
    pub(super) pc_reserved: u8,
    pub(super) sku: u8,
    pub(super) rest: [u8; 9],
}

#[repr(C)]
pub struct QAicQueueProperties {
    pub(super) properties: u32,
    pub(super) threads: u32,
}

/// The open header's `QDevInfo`, of which only the state, the number, the resources and the name are filled.
pub(super) const DEV_INFO: usize = 1160;

const _: () = {
    assert!(size_of::<QBuffer>() == 32 && size_of::<QData>() == 16 && size_of::<QBufferDimensions>() == 16);
    assert!(size_of::<QAicBufferMappings>() == 32 && size_of::<QAicIoBufferInfo>() == 16);
    assert!(size_of::<QAicQpcConstantsInfo>() == 72 && size_of::<QAicQpcInfo>() == 32);
    assert!(size_of::<QAicQpcProgramInfo>() == 120 && size_of::<QResourceInfo>() == 56);
};

/// Structures that were handed out, with what they point to.
pub(super) struct Handed {
    pub(super) info: Box<QAicIoBufferInfo>,
    pub(super) qpc: Option<Box<QAicQpcInfo>>,
    _mappings: Vec<QAicBufferMappings>,
    _names: Vec<Vec<u8>>,
    _program: Option<Box<QAicQpcProgramInfo>>,
    _constants: Option<Box<QAicQpcConstantsInfo>>,
}

// The pointers within lead to what the same value owns and nobody changes.
unsafe impl Send for Handed {}
unsafe impl Sync for Handed {}

impl Handed {
    pub(super) fn new(network: &Network) -> Self {
        let mut names: Vec<Vec<u8>> =
            network.bindings.iter().map(|binding| [binding.name.as_bytes(), b"\0"].concat()).collect();
        let mappings = network.bindings.iter().zip(&mut names).enumerate().map(|(i, (binding, name))| {
            // Unlike in the protobuf, inputs are 1 here, and outputs 2.
            let io_type = if binding.output { 2 } else { 1 };
            QAicBufferMappings {
                name: name.as_mut_ptr().cast(),
                index: i as u32,
                io_type,
                size: binding.size() as u32,
                partial: binding.partial,
                data_type: binding.elem as u32,
            }
        });
        let mut mappings: Vec<_> = mappings.collect();
        let info = Box::new(QAicIoBufferInfo { count: mappings.len() as u32, mappings: mappings.as_mut_ptr() });
        Handed { info, qpc: None, _mappings: mappings, _names: names, _program: None, _constants: None }
    }

    pub(super) fn of_qpc(network: &Network) -> Self {
        let mut handed = Handed::new(network);
        let named = |text: &str| {
            let mut name = [0; 64];
            text.bytes().take(63).enumerate().for_each(|(i, byte)| name[i] = byte);
            name
        };
        let mut program = Box::new(QAicQpcProgramInfo {
            name: named(&network.name),
            index: 0,
            cores: network.cores,
            size: 0,
            io: QAicIoBufferInfo { count: handed.info.count, mappings: handed.info.mappings },
            dma: QAicIoBufferInfo { count: 0, mappings: ptr::null_mut() },
            batch: 1,
        });
        let mut constants = Box::new(QAicQpcConstantsInfo { name: named("constantsdesc.bin"), index: 1, size: 24 });
        handed.qpc = Some(Box::new(QAicQpcInfo {
            programs: 1,
            program: &raw mut *program,
            constants: 1,
            constant: &raw mut *constants,
        }));
        (handed._program, handed._constants) = (Some(program), Some(constants));
        handed
    }
}
