//! Contexts: cards that a program may use, and what is said about them.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use serde_json::{Value as Json, json};

use super::{Handle, LogCallback, call, give_handle, id, name_of};
use crate::runtime::Listener;
use crate::runtime::status::{Fail, Status};

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
