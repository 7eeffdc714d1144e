//! QPCs and programs.

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::layout::{Handed, QAicIoBufferInfo, QAicQpcInfo, QData};
use super::{Handle, Lent, call, give, give_handle, id, name_of, null, runtime, text};
use crate::header::Properties;
use crate::runtime::Memory;
use crate::runtime::objects::spell;
use crate::runtime::program::{By, Wish};
use crate::runtime::status::{Fail, Status};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicOpenQpc(qpc: *mut Handle, buffer: *mut u8, size: usize, copy: bool) -> u32 {
    call(
        "qaicOpenQpc",
        || json!({ "size": size, "makeCopy": copy }),
        |runtime| {
            if buffer.is_null() {
                return Err(null("the QPC"));
            }
            let memory = Lent { at: buffer as usize, size };
            let file = memory.read();
            let lent: Option<Arc<dyn Memory>> = (!copy).then(|| Arc::new(memory) as _);
            unsafe { give_handle(qpc, runtime.open_qpc(&file, lent)) }
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicOpenQpcFile(qpc: *mut Handle, path: *const c_char) -> u32 {
    let path = unsafe { text(path) };
    call(
        "qaicOpenQpcFile",
        || json!({ "path": path }),
        |runtime| {
            let path = path.as_ref().ok_or_else(|| null("path"))?;
            let file = std::fs::read(path).map_err(|error| Fail::new(Status::INVAL, format!("{path}: {error}")))?;
            unsafe { give_handle(qpc, runtime.open_qpc(&file, None)) }
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicCloseQpc(qpc: Handle) -> u32 {
    call("qaicCloseQpc", || name_of(qpc).into(), |runtime| runtime.close_qpc(id(qpc)).map(|()| Json::Null))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicQpcGetInfo(qpc: Handle, info: *mut *const QAicQpcInfo) -> u32 {
    call(
        "qaicQpcGetInfo",
        || name_of(qpc).into(),
        |runtime| {
            let qpc = runtime.objects.qpc(id(qpc))?;
            let handed = qpc.handed_out.get_or_init(|| Box::new(Handed::of_qpc(&qpc.image.network)));
            let handed = handed.downcast_ref::<Handed>().and_then(|handed| handed.qpc.as_ref());
            let handed = handed.ok_or_else(|| Fail::new(Status::ERROR, "no information"))?;
            unsafe { give(info, &raw const **handed, "info") }?;
            Ok(Json::Null)
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicProgramPropertiesInitDefault(properties: *mut u8) -> u32 {
    call(
        "qaicProgramPropertiesInitDefault",
        || Json::Null,
        |runtime| {
            if properties.is_null() {
                return Err(null("properties"));
            }
            let layout = Properties::of(runtime.config.layout);
            let mut block = vec![0u8; layout.size];
            block[4..8].copy_from_slice(&5u32.to_le_bytes());
            if let Some(at) = layout.timeout {
                block[at..at + 4].copy_from_slice(&60_000u32.to_le_bytes());
            }
            unsafe { ptr::copy_nonoverlapping(block.as_ptr(), properties, layout.size) };
            Ok(json!({ "size": layout.size }))
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicCreateProgram(
    context: Handle,
    program: *mut Handle,
    properties: *const u8,
    device: i32,
    name: *const c_char,
    qpc: Handle,
) -> u32 {
    // What the library reads at the places of its own layout goes into the log: whoever sets members by another one is seen.
    let wish = runtime().ok().map(|runtime| unsafe {
        let layout = Properties::of(runtime.config.layout);
        let name = text(name).unwrap_or_default();
        let at = |offset: usize| properties.add(offset);
        let mapping = (!properties.is_null()).then(|| at(layout.dev_mapping).cast::<*const c_char>().read_unaligned());
        let timeout = layout.timeout.filter(|_| !properties.is_null());
        Wish {
            name,
            device,
            mapping: mapping.and_then(|mapping| text(mapping)),
            timeout_ms: timeout.map(|offset| at(offset).cast::<u32>().read_unaligned()),
        }
    });
    let wish = wish.unwrap_or_default();
    let arguments = || {
        json!({
            "context": name_of(context), "qpc": name_of(qpc), "device": device, "name": wish.name,
            "devMapping": wish.mapping, "dataPathTimeoutMs": wish.timeout_ms,
        })
    };
    call("qaicCreateProgram", arguments, |runtime| {
        if program.is_null() {
            return Err(null("the place for the result"));
        }
        let (made, object) = runtime.create_program(id(context), id(qpc), wish.clone())?;
        unsafe { program.write(made as Handle) };
        Ok(json!({ "program": spell(made), "cards": object.cards }))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicReleaseProgram(program: Handle) -> u32 {
    call(
        "qaicReleaseProgram",
        || name_of(program).into(),
        |runtime| runtime.release_program(id(program)).map(|()| Json::Null),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicLoadProgram(program: Handle) -> u32 {
    call(
        "qaicLoadProgram",
        || name_of(program).into(),
        |runtime| runtime.objects.program(id(program))?.load(runtime).map(|()| Json::Null),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicUnloadProgram(program: Handle) -> u32 {
    call(
        "qaicUnloadProgram",
        || name_of(program).into(),
        |runtime| runtime.objects.program(id(program))?.unload().map(|()| Json::Null),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicRunActivationCmd(program: Handle, command: u32) -> u32 {
    call(
        "qaicRunActivationCmd",
        || json!({ "program": name_of(program), "command": command }),
        |runtime| {
            let program = runtime.objects.program(id(program))?;
            match command {
                0 => program.activate(runtime, By::Caller)?,
                1 => program.deactivate(runtime)?,
                other => return Err(Fail::new(Status::UNSUPPORTED, format!("there is no activation command {other}"))),
            }
            Ok(Json::Null)
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicProgramGetIoDescriptor(program: Handle, data: *mut QData) -> u32 {
    call(
        "qaicProgramGetIoDescriptor",
        || name_of(program).into(),
        |runtime| {
            let program = runtime.objects.program(id(program))?;
            let blob = QData { size: program.io_desc.len(), data: program.io_desc.as_ptr().cast_mut() };
            unsafe { give(data, blob, "data") }?;
            Ok(json!({ "size": program.io_desc.len() }))
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicProgramGetIoBufferInfo(program: Handle, info: *mut *mut QAicIoBufferInfo) -> u32 {
    call(
        "qaicProgramGetIoBufferInfo",
        || name_of(program).into(),
        |runtime| {
            let program = runtime.objects.program(id(program))?;
            let handed = program.handed_out.get_or_init(|| Box::new(Handed::new(&program.qpc.image.network)));
            let handed = handed.downcast_ref::<Handed>().ok_or_else(|| Fail::new(Status::ERROR, "no information"))?;
            unsafe { give(info, (&raw const *handed.info).cast_mut(), "info") }?;
            Ok(Json::Null)
        },
    )
}
