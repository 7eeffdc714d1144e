#![no_main]

#[path = "../harness.rs"]
mod harness;

use std::cell::LazyCell;

use harness::Folder;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static FOLDER: LazyCell<Folder> = LazyCell::new(|| Folder::new().expect("a temporary folder"));
}

fuzz_target!(|input: &[u8]| FOLDER.with(|folder| folder.quantised(input)));
