//! Versions and cards.

use std::ffi::c_char;
use std::ptr;

use serde_json::{Value as Json, json};

use super::layout::{DEV_INFO, QResourceInfo};
use super::{call, give, null};
use crate::config::CardStatus;
use crate::runtime::status::{Fail, Status};
use crate::runtime::{Runtime, cards::Snapshot};

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
