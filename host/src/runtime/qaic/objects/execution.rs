//! Calls of a program, one after the other, with the memory of its bindings.
//!
//! Memory that is handed over for a call belongs to its [`Execution`], which cannot be touched before the call is complete.
//! A call that does not come back may still write there: then everything it could reach is kept for the rest of the
//! process instead of being released.

use std::mem::{self, ManuallyDrop};
use std::ptr;
use std::slice;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Activation, Context, Created, Queue, check, making, release};
use crate::runtime::qaic::error::{QaicError, Status};
use crate::runtime::qaic::ffi::{Buffer, Bytes, Dimensions, Handle};
use crate::runtime::qaic::messages::{self, Moment};
use crate::runtime::qaic::program::DEFAULT_TIMEOUT;

/// Bytes of a page, to whose multiples memory is aligned for the device.
const PAGE: usize = 4096;
/// Most dimensions of a binding.
const MOST_DIMS: usize = 16;

/// Memory at a page's beginning.
#[derive(Debug, Default)]
pub struct Memory {
    pages: Vec<Page>,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

impl Memory {
    /// Makes room for so many bytes; what was there is kept.
    fn reserve(&mut self, bytes: usize) -> Result<(), QaicError> {
        let pages = bytes.div_ceil(PAGE);
        if pages > self.pages.len() {
            let refused =
                |_| QaicError::Unfit(format!("a binding of {bytes} bytes does not fit this machine's memory"));
            self.pages.try_reserve_exact(pages - self.pages.len()).map_err(refused)?;
            self.pages.resize(pages, Page([0; PAGE]));
        }
        Ok(())
    }

    /// The first bytes.
    pub fn bytes(&self, count: usize) -> &[u8] {
        debug_assert!(count <= self.pages.len() * PAGE);
        // SAFETY: pages are bytes without padding, and there are at least as many.
        unsafe { slice::from_raw_parts(self.pages.as_ptr().cast(), count.min(self.pages.len() * PAGE)) }
    }

    fn bytes_mut(&mut self, count: usize) -> &mut [u8] {
        debug_assert!(count <= self.pages.len() * PAGE);
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), count.min(self.pages.len() * PAGE)) }
    }
}

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// With us.
    Idle,
    /// With the device.
    Submitted,
    /// With the device for good: nobody knows whether it still writes.
    Lost,
}

/// Dimensions of a binding in the next call, with its memory.
#[derive(Debug, Default)]
struct Slot {
    dims: Vec<u32>,
    /// Shared with whoever still reads the result of an earlier call; the next call then gets memory of its own.
    memory: Arc<Memory>,
}

impl Slot {
    fn memory(&mut self, bytes: usize) -> Result<&mut Memory, QaicError> {
        if Arc::get_mut(&mut self.memory).is_none() {
            self.memory = Arc::default();
        }
        match Arc::get_mut(&mut self.memory) {
            Some(memory) => {
                memory.reserve(bytes)?;
                Ok(memory)
            }
            None => Err(QaicError::Misuse("memory that was just made is shared".into())),
        }
    }
}

/// One call after the other of an active program, with the memory of its bindings.
///
/// Every binding begins left out. What is set stays set until it is set again or left out.
#[derive(Debug)]
pub struct Execution {
    handle: Handle,
    activation: ManuallyDrop<Arc<Activation>>,
    queue: ManuallyDrop<Arc<Queue>>,
    slots: Vec<Slot>,
    buffers: Vec<Buffer>,
    dimensions: Vec<Dimensions>,
    changed: bool,
    stage: Stage,
    /// When the last call was handed over: what the library says from then on may be about it.
    submitted: Moment,
}

// SAFETY: as for `Context`; the memory that it points to is its own. It is not `Sync`.
unsafe impl Send for Execution {}

/// The dimension of a binding that is left out.
const LEFT_OUT: [u32; 1] = [0];
/// The dimension of a single number.
const SCALAR: [u32; 1] = [1];

impl Execution {
    /// Something to make calls with, through a queue. `descriptor` is the program's (`Program::descriptor`), `elem_sizes` the bytes of an
    /// element of each binding.
    ///
    /// # Errors
    /// If the library refuses.
    pub fn new(
        activation: &Arc<Activation>,
        queue: &Arc<Queue>,
        descriptor: &[u8],
        elem_sizes: &[usize],
    ) -> Result<Self, QaicError> {
        let Created { handle: program, context, .. } = &activation.program.created;
        let mut handle = ptr::null_mut();
        let bytes = Bytes { size: descriptor.len(), data: descriptor.as_ptr().cast_mut() };
        let since = messages::now();
        // SAFETY: a place for the handle, default properties, a descriptor that is only read, and no place for buffers: they
        // are ours.
        let status = making(|| unsafe {
            (context.library.functions().create_execution)(
                context.handle,
                &mut handle,
                ptr::null(),
                *program,
                if descriptor.is_empty() { ptr::null() } else { &bytes },
                ptr::null_mut(),
                ptr::null_mut(),
            )
        });
        check(status, "qaicCreateExecObj", &context.on, since)?;
        let mut slots: Vec<Slot> = elem_sizes.iter().map(|_| Slot::default()).collect();
        let dimensions = slots
            .iter_mut()
            .zip(elem_sizes)
            .map(|(slot, &size)| {
                slot.dims.reserve_exact(MOST_DIMS);
                slot.dims.extend(LEFT_OUT);
                let elem_size = u32::try_from(size).unwrap_or(u32::MAX);
                Dimensions { count: 1, elem_size, dims: slot.dims.as_mut_ptr() }
            })
            .collect();
        let buffers = vec![Buffer::NONE; slots.len()];
        let (activation, queue) = (ManuallyDrop::new(Arc::clone(activation)), ManuallyDrop::new(Arc::clone(queue)));
        Ok(Execution {
            handle,
            activation,
            queue,
            slots,
            buffers,
            dimensions,
            changed: true,
            stage: Stage::Idle,
            submitted: messages::now(),
        })
    }

    fn context(&self) -> &Arc<Context> {
        self.activation.program.context()
    }

    fn idle(&self) -> Result<(), QaicError> {
        match self.stage {
            Stage::Idle => Ok(()),
            Stage::Submitted => {
                Err(QaicError::Misuse("the call is not complete; its memory belongs to the device".into()))
            }
            Stage::Lost => Err(QaicError::GivenUp { on: self.context().on.clone() }),
        }
    }

    /// Memory of a binding for the next call, which has these dimensions there. Whatever was there before may be there.
    ///
    /// # Errors
    /// If a call is in progress, there is no such binding, or not so much memory.
    pub fn set(&mut self, binding: usize, dims: &[u32]) -> Result<&mut [u8], QaicError> {
        self.idle()?;
        let dims = if dims.is_empty() { &SCALAR[..] } else { dims };
        let known =
            self.slots.get_mut(binding).zip(self.buffers.get_mut(binding)).zip(self.dimensions.get_mut(binding));
        let Some(((slot, buffer), dimensions)) = known else {
            return Err(QaicError::Misuse(format!("there is no binding {binding}")));
        };
        if buffer.size > 0 && slot.dims == dims && Arc::get_mut(&mut slot.memory).is_some() {
            return Ok(slot.memory(buffer.size)?.bytes_mut(buffer.size));
        }
        let elements = dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim as usize));
        let bytes = elements.and_then(|n| n.checked_mul(dimensions.elem_size as usize)).filter(|&bytes| bytes > 0);
        let Some(bytes) = bytes.filter(|_| dims.len() <= MOST_DIMS) else {
            return Err(QaicError::Misuse(format!("binding {binding} cannot have dimensions {dims:?}")));
        };
        slot.dims.clear();
        slot.dims.extend_from_slice(dims);
        self.changed = true;
        *dimensions =
            Dimensions { count: dims.len() as u32, elem_size: dimensions.elem_size, dims: slot.dims.as_mut_ptr() };
        let memory = slot.memory(bytes)?;
        *buffer = Buffer { size: bytes, data: memory.pages.as_mut_ptr().cast(), ..Buffer::NONE };
        Ok(memory.bytes_mut(bytes))
    }

    /// Leaves a binding out of the next call: the device takes what it retained, or does not copy back.
    ///
    /// # Errors
    /// If a call is in progress or there is no such binding.
    pub fn skip(&mut self, binding: usize) -> Result<(), QaicError> {
        self.idle()?;
        let known =
            self.slots.get_mut(binding).zip(self.buffers.get_mut(binding)).zip(self.dimensions.get_mut(binding));
        let Some(((slot, buffer), dimensions)) = known else {
            return Err(QaicError::Misuse(format!("there is no binding {binding}")));
        };
        if buffer.size > 0 {
            slot.dims.clear();
            slot.dims.extend(LEFT_OUT);
            self.changed = true;
            *dimensions = Dimensions { count: 1, elem_size: dimensions.elem_size, dims: slot.dims.as_mut_ptr() };
            *buffer = Buffer::NONE;
        }
        Ok(())
    }

    /// Bytes of a binding; none if it is left out.
    ///
    /// # Errors
    /// If a call is in progress or there is no such binding.
    pub fn bytes(&self, binding: usize) -> Result<&[u8], QaicError> {
        self.idle()?;
        let known = self.slots.get(binding).zip(self.buffers.get(binding));
        let (slot, buffer) = known.ok_or_else(|| QaicError::Misuse(format!("there is no binding {binding}")))?;
        Ok(slot.memory.bytes(buffer.size))
    }

    /// Memory of a binding with the number of its bytes, to be read for as long as anybody likes: a later call that sets the
    /// binding gets memory of its own meanwhile.
    ///
    /// # Errors
    /// If a call is in progress or there is no such binding.
    pub fn share(&self, binding: usize) -> Result<(Arc<Memory>, usize), QaicError> {
        self.idle()?;
        let known = self.slots.get(binding).zip(self.buffers.get(binding));
        let (slot, buffer) = known.ok_or_else(|| QaicError::Misuse(format!("there is no binding {binding}")))?;
        Ok((Arc::clone(&slot.memory), buffer.size))
    }

    /// Whether dimensions have changed since they were last found to be those of a specialization.
    pub(in crate::runtime::qaic) fn has_changed(&self) -> bool {
        self.changed
    }

    /// The dimensions are those of a specialization.
    pub(in crate::runtime::qaic) fn settle(&mut self) {
        self.changed = false;
    }

    /// Dimensions of a binding in the next call, or the last; `[0]` if it is left out.
    pub fn dims(&self, binding: usize) -> &[u32] {
        self.slots.get(binding).map_or(&LEFT_OUT, |slot| &slot.dims)
    }

    /// Gives bindings whose memory somebody still reads a copy: the device may write there.
    fn own_memory(&mut self) -> Result<(), QaicError> {
        let set = self.slots.iter_mut().zip(&mut self.buffers).filter(|(_, buffer)| buffer.size > 0);
        for (slot, buffer) in set {
            if Arc::get_mut(&mut slot.memory).is_none() {
                let mut own = Memory::default();
                own.reserve(buffer.size)?;
                own.bytes_mut(buffer.size).copy_from_slice(slot.memory.bytes(buffer.size));
                buffer.data = own.pages.as_mut_ptr().cast();
                slot.memory = Arc::new(own);
            }
        }
        Ok(())
    }

    /// Hands the call over. Its memory belongs to the device until [`Execution::complete`].
    ///
    /// # Errors
    /// If a call is in progress or the library refuses; then there is none.
    pub fn submit(&mut self) -> Result<(), QaicError> {
        self.idle()?;
        self.own_memory()?;
        let functions = *self.context().library.functions();
        let count = self.buffers.len() as u32;
        let since = messages::now();
        // SAFETY: as many buffers and dimensions as said. They point to memory of this object, which stays where it is and
        // is not touched before the call is complete.
        let status = unsafe {
            (functions.set_data)(self.handle, count, self.buffers.as_mut_ptr(), self.dimensions.as_mut_ptr())
        };
        check(status, "qaicExecObjSetDataExt", &self.context().on, since)?;
        let turn = self.queue.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: queue and execution live; no event is wanted.
        let status = unsafe { (functions.enqueue)(self.queue.handle, self.handle, ptr::null_mut()) };
        drop(turn);
        check(status, "qaicEnqueueExecObj", &self.context().on, since)?;
        (self.stage, self.submitted) = (Stage::Submitted, since);
        Ok(())
    }

    /// Waits for the call.
    ///
    /// # Errors
    /// If there is none, it failed, or the time is over. In the latter case this object is of no use any more.
    pub fn complete(&mut self, timeout: Duration) -> Result<(), QaicError> {
        match self.stage {
            Stage::Submitted => {}
            Stage::Idle => return Err(QaicError::Misuse("no call was submitted".into())),
            Stage::Lost => return self.idle(),
        }
        let functions = *self.context().library.functions();
        let microseconds = u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX);
        let since = self.submitted;
        // SAFETY: a call is in progress.
        let status = Status(unsafe { (functions.wait)(self.handle, microseconds) });
        if status == Status::TIMED_OUT {
            self.stage = Stage::Lost;
            let said = messages::since(since);
            return Err(QaicError::Silent { on: self.context().on.clone(), after: timeout, said });
        }
        self.stage = Stage::Idle;
        if status != Status::SUCCESS {
            // The wait may have failed rather than the call, which is then still in progress. A second one tells.
            // SAFETY: the call was handed over; whether it is complete is the question.
            let again = Status(unsafe { (functions.wait)(self.handle, microseconds) });
            if again == Status::TIMED_OUT {
                self.stage = Stage::Lost;
            }
        }
        check(status.0, "qaicExecObjWaitForCompletion", &self.context().on, since)
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        if self.stage == Stage::Submitted {
            // Whoever gave the call up did not wait for it; its memory cannot go before it is complete.
            let _ = self.complete(DEFAULT_TIMEOUT);
        }
        if self.stage == Stage::Lost {
            // The device may still write to this memory, so it is never given back, and neither is what it was made from.
            mem::forget(mem::take(&mut self.slots));
            mem::forget(mem::take(&mut self.buffers));
            mem::forget(mem::take(&mut self.dimensions));
            return;
        }
        let context = Arc::clone(self.context());
        // SAFETY: the handle is ours, and no call is in progress.
        let status = making(|| unsafe { (context.library.functions().release_execution)(self.handle) });
        release("qaicReleaseExecObj", &context.on, status);
        // SAFETY: this is the only place that drops them, and nothing uses them afterwards.
        unsafe {
            ManuallyDrop::drop(&mut self.activation);
            ManuallyDrop::drop(&mut self.queue);
        }
    }
}
