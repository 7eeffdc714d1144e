//! Queues, executions and events.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::layout::{QAicQueueProperties, QBuffer, QBufferDimensions, QData};
use super::{Handle, Lent, call, give_handle, id, name_of, null, runtime};
use crate::runtime::flight::{self, Buffer};
use crate::runtime::status::{Fail, Status};
use crate::runtime::{Memory as _, Runtime};

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
