//! The C functions of `libQAic.so`, with their published names, signatures and structures.
//!
//! Exactly the functions whose prototypes are published: a host that calls a guessed name fails to find it here as it may
//! there. Not there: the table of functions (its order is not published), the list of devices (nobody has seen its
//! prototype), callbacks of events (nor theirs), program groups, DMA buffers and slices.
//!
//! The only `unsafe` of the crate. What it rests on is what the real library rests on: pointers are what the prototypes say,
//! and buffers live until the wait returns.

#![allow(unsafe_code)]
// Names are the library's, and what may go wrong with a pointer is the same for all.
#![allow(clippy::missing_safety_doc, non_snake_case, unreachable_pub)]

mod layout;

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use serde_json::{Value as Json, json};

use self::layout::{
    DEV_INFO, Handed, QAicIoBufferInfo, QAicQpcInfo, QAicQueueProperties, QBuffer, QBufferDimensions, QData,
    QResourceInfo,
};
use crate::config::CardStatus;
use crate::header::Properties;
use crate::runtime::flight::{self, Buffer};
use crate::runtime::objects::spell;
use crate::runtime::program::{By, Wish};
use crate::runtime::status::{Fail, Status};
use crate::runtime::{Listener, Memory, Runtime, cards::Snapshot};

/// An opaque pointer: one of our handles.
type Handle = *mut c_void;

type LogCallback = unsafe extern "C" fn(u32, *const c_char, *mut c_void);

/// The library. It finds its SDK by its own path: `ROOT/dev/lib/x86_64/libQAic.so`.
fn runtime() -> Result<&'static Runtime, Status> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new(root()).ok()).as_ref().ok_or(Status::ERROR)
}

fn root() -> Option<PathBuf> {
    let here = qaicGetAicVersion as *const () as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (begin, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        (number(begin)? <= here && here < number(end)?).then(|| rest.find('/').map(|at| PathBuf::from(&rest[at..])))?
    })?;
    path.ancestors().nth(4).map(PathBuf::from).filter(|root| root.join(crate::config::FILE).is_file())
}

/// Does a call; a panic is a status, since it must not leave the library.
fn call(
    name: &str,
    arguments: impl FnOnce() -> Json,
    body: impl FnOnce(&'static Runtime) -> Result<Json, Fail>,
) -> u32 {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match runtime() {
        Ok(runtime) => runtime.call(name, arguments, || body(runtime)).0,
        Err(status) => status.0,
    }));
    done.unwrap_or(Status::ERROR.0)
}

fn id(handle: Handle) -> u64 {
    handle as u64
}

fn name_of(handle: Handle) -> String {
    spell(id(handle))
}

fn null(what: &str) -> Fail {
    Fail::new(Status::INVAL, format!("{what} is NULL"))
}

/// Writes a result where the caller wants it.
unsafe fn give<T>(to: *mut T, value: T, what: &str) -> Result<(), Fail> {
    if to.is_null() {
        return Err(null(what));
    }
    unsafe { to.write(value) };
    Ok(())
}

/// A handle, given to the caller and to the log.
unsafe fn give_handle(to: *mut Handle, made: Result<u64, Fail>) -> Result<Json, Fail> {
    if to.is_null() {
        return Err(null("the place for the result"));
    }
    let made = made?;
    unsafe { to.write(made as Handle) };
    Ok(spell(made).into())
}

unsafe fn text(pointer: *const c_char) -> Option<String> {
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// Memory of the caller.
struct Lent {
    at: usize,
    size: usize,
}

impl Memory for Lent {
    fn read(&self) -> Vec<u8> {
        if self.size == 0 {
            return vec![];
        }
        // The caller promised that this many bytes are there until the run is done.
        unsafe { std::slice::from_raw_parts(self.at as *const u8, self.size) }.to_vec()
    }

    fn write(&self, bytes: &[u8]) {
        let size = bytes.len().min(self.size);
        if size > 0 {
            // As above; nothing of ours refers to this memory meanwhile.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at as *mut u8, size) };
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicGetAicVersion(
    major: *mut u16,
    minor: *mut u16,
    patch: *mut *const c_char,
    variant: *mut *const c_char,
) -> u32 {
    call(
        "qaicGetAicVersion",
        || Json::Null,
        |runtime| unsafe {
            let [a, b] = runtime.config.library_version;
            give(major, a, "major")?;
            give(minor, b, "minor")?;
            // The real one may be asked for the numbers alone.
            if !patch.is_null() {
                patch.write(c"0".as_ptr());
            }
            if !variant.is_null() {
                variant.write(c"SIM".as_ptr());
            }
            Ok(json!([a, b]))
        },
    )
}

fn look(runtime: &Runtime, qid: i32) -> Result<Snapshot, Fail> {
    if runtime.config.cards.is_empty() {
        return Err(Fail::new(Status::ERROR, "Failed to initialize driver"));
    }
    runtime.cards.look(qid).ok_or_else(|| Fail::new(Status::NODEV, format!("there is no device {qid}")))
}

fn resources(card: &Snapshot) -> QResourceInfo {
    QResourceInfo {
        reservation: 0,
        // Users of the SDK take this for KiB.
        dram_total: card.card.dram_mb * 1024,
        dram_free: card.card.dram_mb * 1024,
        vc_total: 16,
        vc_free: 16,
        nsp_total: card.card.cores,
        nsp_free: card.free as u8,
        mcid_total: 0,
        mcid_free: 0,
        sem_total: 32,
        sem_free: 32,
        pc_total: 0,
        pc_reserved: 0,
        sku: 0,
        rest: [0; 9],
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicGetDeviceInfo(qid: i32, info: *mut u8) -> u32 {
    call(
        "qaicGetDeviceInfo",
        || json!({ "qid": qid }),
        |runtime| {
            let card = look(runtime, qid)?;
            if info.is_null() {
                return Err(null("info"));
            }
            let status: u32 = match card.status {
                CardStatus::Initializing => 0,
                CardStatus::Ready => 1,
                CardStatus::Error => 2,
            };
            let mut block = [0u8; DEV_INFO];
            block[..4].copy_from_slice(&status.to_le_bytes());
            block[432..436].copy_from_slice(&qid.to_le_bytes());
            block[1092..1096].copy_from_slice(b"SIM\0");
            unsafe {
                ptr::copy_nonoverlapping(block.as_ptr(), info, DEV_INFO);
                info.add(440 + 360).cast::<QResourceInfo>().write_unaligned(resources(&card));
            }
            Ok(status.into())
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicGetResourceInfo(qid: i32, info: *mut QResourceInfo) -> u32 {
    call(
        "qaicGetResourceInfo",
        || json!({ "qid": qid }),
        |runtime| {
            let card = look(runtime, qid)?;
            unsafe { give(info, resources(&card), "info") }?;
            Ok(json!({ "nspTotal": card.card.cores, "nspFree": card.free }))
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicCreateContext(
    context: *mut Handle,
    _properties: *mut c_void,
    count: u32,
    devices: *const i32,
    log: Option<LogCallback>,
    log_user: *mut c_void,
    _error: Option<unsafe extern "C" fn()>,
    _error_user: *mut c_void,
) -> u32 {
    let list = || {
        (count > 0 && !devices.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(devices, count as usize) }.to_vec())
    };
    call(
        "qaicCreateContext",
        || json!({ "devices": list() }),
        |runtime| {
            let user = log_user as usize;
            let listener = log.map(|log| -> Listener {
                Box::new(move |level, said| {
                    // A text with a NUL in it is cut there.
                    let said: Vec<u8> = said.bytes().take_while(|&byte| byte != 0).chain([0]).collect();
                    // Where the user data stands is not published; behind the others, callbacks of either form are served.
                    unsafe { log(level, said.as_ptr().cast(), user as *mut c_void) };
                })
            });
            unsafe { give_handle(context, runtime.create_context(list(), listener)) }
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicReleaseContext(context: Handle) -> u32 {
    call(
        "qaicReleaseContext",
        || name_of(context).into(),
        |runtime| runtime.release_context(id(context)).map(|()| Json::Null),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicSetLogLevel(context: Handle, level: u32) -> u32 {
    call(
        "qaicSetLogLevel",
        || json!({ "context": name_of(context), "level": level }),
        |runtime| {
            if level > 3 {
                return Err(Fail::new(Status::INVAL, format!("there is no log level {level}")));
            }
            runtime.objects.context(id(context))?.level.store(level, Ordering::Relaxed);
            Ok(Json::Null)
        },
    )
}

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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicCreateQueue(
    context: Handle,
    queue: *mut Handle,
    properties: *const QAicQueueProperties,
    device: i32,
) -> u32 {
    let threads = (!properties.is_null()).then(|| {
        let properties = unsafe { properties.read() };
        if properties.properties == 0 { 1 } else { properties.threads }
    });
    let threads = threads.unwrap_or(4);
    let arguments = || json!({ "context": name_of(context), "device": device, "threads": threads });
    call("qaicCreateQueue", arguments, |runtime| unsafe {
        give_handle(queue, runtime.create_queue(id(context), device, threads))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicReleaseQueue(queue: Handle) -> u32 {
    call("qaicReleaseQueue", || name_of(queue).into(), |runtime| runtime.release_queue(id(queue)).map(|()| Json::Null))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicCreateExecObj(
    context: Handle,
    exec: *mut Handle,
    properties: *const u32,
    program: Handle,
    io_desc: *const QData,
    buffer_count: *mut u32,
    buffers: *mut *mut QBuffer,
) -> u32 {
    let arguments =
        || json!({ "context": name_of(context), "program": name_of(program), "ioDesc": !io_desc.is_null() });
    call("qaicCreateExecObj", arguments, |runtime| {
        if !buffer_count.is_null() || !buffers.is_null() {
            return Err(Fail::new(Status::UNSUPPORTED, "DmaBuf mode: the stand-in has buffers of the caller only"));
        }
        // 0x04 loads and activates, and is the default.
        let wished = (!properties.is_null()).then(|| unsafe { properties.read() });
        if wished.is_some_and(|wished| wished & !4 != 0) {
            return Err(Fail::new(Status::UNSUPPORTED, format!("properties {wished:?} of an execution object")));
        }
        let desc = (!io_desc.is_null()).then(|| {
            let data = unsafe { io_desc.read() };
            Lent { at: data.data as usize, size: if data.data.is_null() { 0 } else { data.size } }.read()
        });
        unsafe { give_handle(exec, runtime.create_exec(id(context), id(program), desc.as_deref())) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicReleaseExecObj(exec: Handle) -> u32 {
    call("qaicReleaseExecObj", || name_of(exec).into(), |runtime| runtime.release_exec(id(exec)).map(|()| Json::Null))
}

/// The buffers of a call. A count that is not the program's is refused before anything is read.
unsafe fn buffers(
    runtime: &Runtime,
    exec: Handle,
    count: u32,
    buffers: *const QBuffer,
    dims: Option<*const QBufferDimensions>,
) -> Result<Vec<Buffer>, Fail> {
    let bindings = runtime.objects.exec(id(exec))?.program.qpc.image.network.bindings.len();
    if count as usize != bindings || buffers.is_null() || dims.is_some_and(|dims| dims.is_null()) {
        return Err(Fail::new(Status::INVAL, format!("{count} buffers for {bindings} bindings, or a list is NULL")));
    }
    let mut list = vec![];
    for i in 0..bindings {
        let buffer = unsafe { buffers.add(i).read() };
        if buffer.size > 0 && buffer.buf.is_null() {
            return Err(null(&format!("the memory of buffer {i}")));
        }
        let (mut shape, mut elem_size) = (None, None);
        if let Some(dims) = dims {
            let given = unsafe { dims.add(i).read() };
            if given.count > 16 || given.dims.is_null() {
                return Err(Fail::new(Status::INVAL, format!("the dimensions of buffer {i}: {} of them", given.count)));
            }
            let numbers = unsafe { std::slice::from_raw_parts(given.dims, given.count as usize) };
            shape = Some(numbers.iter().map(|&dim| dim as usize).collect());
            elem_size = Some(given.size_of_elem as usize);
        }
        // `offset` is for memory of the device.
        let at = buffer.buf as usize;
        let memory = Arc::new(Lent { at, size: buffer.size });
        list.push(Buffer { memory, size: buffer.size, dims: shape, elem_size, kind: buffer.kind });
    }
    Ok(list)
}

fn described(list: &[Buffer]) -> Json {
    list.iter().map(|buffer| json!([buffer.size, buffer.dims])).collect()
}

unsafe fn set(
    name: &str,
    exec: Handle,
    count: u32,
    given: *const QBuffer,
    dims: Option<*const QBufferDimensions>,
) -> u32 {
    call(
        name,
        || json!({ "exec": name_of(exec), "count": count }),
        |runtime| {
            let list = unsafe { buffers(runtime, exec, count, given, dims) }?;
            let said = if runtime.logs() { described(&list) } else { Json::Null };
            runtime.objects.exec(id(exec))?.set(list)?;
            Ok(said)
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicExecObjSetData(exec: Handle, count: u32, buffers: *const QBuffer) -> u32 {
    unsafe { set("qaicExecObjSetData", exec, count, buffers, None) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicExecObjSetDataExt(
    exec: Handle,
    count: u32,
    buffers: *const QBuffer,
    dims: *const QBufferDimensions,
) -> u32 {
    unsafe { set("qaicExecObjSetDataExt", exec, count, buffers, Some(dims)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicEnqueueExecObj(queue: Handle, exec: Handle, event: Handle) -> u32 {
    let arguments = || json!({ "queue": name_of(queue), "exec": name_of(exec), "event": !event.is_null() });
    call("qaicEnqueueExecObj", arguments, |runtime| {
        let (queue, exec) = (runtime.objects.queue(id(queue))?, runtime.objects.exec(id(exec))?);
        let event = if event.is_null() { None } else { Some(runtime.objects.event(id(event))?.1) };
        flight::enqueue(runtime, &queue, &exec, event).map(|()| Json::Null)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicExecObjWaitForCompletion(exec: Handle, timeout: u32) -> u32 {
    let arguments = || json!({ "exec": name_of(exec), "timeout": timeout });
    let status = call("qaicExecObjWaitForCompletion", arguments, |runtime| {
        runtime.objects.exec(id(exec))?.wait(timeout).map(|()| Json::Null)
    });
    // Whatever the reason: who has waited in vain has no other way than to give the run up.
    if status != Status::SUCCESS.0
        && let Ok(runtime) = runtime()
        && let Ok(exec) = runtime.objects.exec(id(exec))
    {
        exec.waited_in_vain();
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicCreateEvent(context: Handle, event: *mut Handle, kind: u32) -> u32 {
    call(
        "qaicCreateEvent",
        || json!({ "context": name_of(context), "type": kind }),
        |runtime| unsafe { give_handle(event, runtime.create_event(id(context))) },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicReleaseEvent(event: Handle) -> u32 {
    call("qaicReleaseEvent", || name_of(event).into(), |runtime| runtime.release_event(id(event)).map(|()| Json::Null))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicEventClear(event: Handle) -> u32 {
    call(
        "qaicEventClear",
        || name_of(event).into(),
        |runtime| {
            runtime.objects.event(id(event))?.1.clear();
            Ok(Json::Null)
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qaicWaitforEvent(event: Handle) -> u32 {
    call(
        "qaicWaitforEvent",
        || name_of(event).into(),
        |runtime| {
            runtime.objects.event(id(event))?.1.wait();
            Ok(Json::Null)
        },
    )
}
