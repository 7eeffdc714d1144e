//! Handles: numbers that callers take for pointers. Each is given out once, so what was released is known for good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::flight::Exec;
use super::program::{Program, Qpc};
use super::queue::Queue;
use super::status::{Fail, Status};
use super::{Context, Event, lock};

/// The upper half of every handle. No address has it, so a caller that looks behind a handle is ended at once.
const MARK: u64 = 0x51A1_C000_0000_0000;

/// What a handle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Context,
    Qpc,
    Program,
    Queue,
    Exec,
    Event,
}

/// Something that is alive.
#[derive(Clone)]
#[allow(missing_docs)]
pub enum Object {
    Context(Arc<Context>),
    Qpc(Arc<Qpc>),
    Program(Arc<Program>),
    Queue(Arc<Queue>),
    Exec(Arc<Exec>),
    Event(Arc<Context>, Arc<Event>),
}

/// All of them.
#[derive(Default)]
pub struct Objects {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u64,
    live: BTreeMap<u64, Object>,
    released: BTreeSet<u64>,
}

impl Objects {
    /// A handle for something that is about to be.
    pub fn reserve(&self, kind: Kind) -> u64 {
        let mut table = lock(&self.table);
        table.last += 1;
        MARK | table.last << 4 | kind as u64
    }

    /// Something under its handle.
    pub fn put(&self, id: u64, object: Object) {
        lock(&self.table).live.insert(id, object);
    }

    /// Something under a new handle.
    pub fn add(&self, kind: Kind, make: impl FnOnce(u64) -> Object) -> u64 {
        let id = self.reserve(kind);
        self.put(id, make(id));
        id
    }

    /// Forgets something.
    ///
    /// # Errors
    /// 6 if it is not alive.
    pub fn release(&self, id: u64) -> Result<(), Fail> {
        let object = self.get(id)?;
        let mut table = lock(&self.table);
        table.live.remove(&id);
        table.released.insert(id);
        drop(table);
        drop(object);
        Ok(())
    }

    fn get(&self, id: u64) -> Result<Object, Fail> {
        let table = lock(&self.table);
        match table.live.get(&id) {
            Some(object) => Ok(object.clone()),
            None if table.released.contains(&id) => {
                Err(Fail::misuse(Status::INVAL, format!("{} was released", spell(id))))
            }
            None if id == 0 => Err(Fail::new(Status::INVAL, "a handle is NULL")),
            None => Err(Fail::misuse(Status::INVAL, format!("{id:#x} was never a handle"))),
        }
    }

    /// The contexts that are alive.
    pub fn contexts(&self) -> Vec<Arc<Context>> {
        let table = lock(&self.table);
        let context =
            |object: &Object| if let Object::Context(context) = object { Some(Arc::clone(context)) } else { None };
        table.live.values().filter_map(context).collect()
    }
}

macro_rules! typed {
    ($($name:ident $variant:ident $type:ty),*) => {
        impl Objects {
            $(
                /// The object of a handle.
                ///
                /// # Errors
                /// 6 if it is something else, or not alive.
                pub fn $name(&self, id: u64) -> Result<Arc<$type>, Fail> {
                    match self.get(id)? {
                        Object::$variant(object) => Ok(object),
                        _ => Err(Fail::misuse(Status::INVAL, format!("{} is no {}", spell(id), stringify!($name)))),
                    }
                }
            )*
        }
    };
}

typed!(context Context Context, qpc Qpc Qpc, program Program Program, queue Queue Queue, exec Exec Exec);

impl Objects {
    /// The event of a handle, and its context.
    ///
    /// # Errors
    /// 6 if it is something else, or not alive.
    pub fn event(&self, id: u64) -> Result<(Arc<Context>, Arc<Event>), Fail> {
        match self.get(id)? {
            Object::Event(context, event) => Ok((context, event)),
            _ => Err(Fail::misuse(Status::INVAL, format!("{} is no event", spell(id)))),
        }
    }
}

/// A handle for people: `program#3`.
pub fn spell(id: u64) -> String {
    if id == 0 {
        return "NULL".into();
    }
    if id & 0xffff_0000_0000_0000 != MARK & 0xffff_0000_0000_0000 {
        return format!("{id:#x}");
    }
    let kind = ["context", "qpc", "program", "queue", "exec", "event"].get((id & 15) as usize).unwrap_or(&"?");
    format!("{kind}#{}", (id & !MARK) >> 4)
}
