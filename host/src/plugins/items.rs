//! What plugins contribute, in an order that depends on names alone.

use std::sync::Arc;

use qeff_plugin_api::abi::Plugin;
use qeff_plugin_api::plugin::{
    Architecture, GraphRewrite, HeaderNeed, PluginError, PoolingHead, Registered, Registration, WeightFormat,
};

use super::entry::{Entry, Origin};
use super::linked::Linked;

#[derive(Default)]
pub(super) struct Items {
    pub(super) architectures: Vec<Entry<dyn Architecture>>,
    pub(super) pooling: Vec<Entry<dyn PoolingHead>>,
    pub(super) rewrites: Vec<Entry<dyn GraphRewrite>>,
    pub(super) formats: Vec<Entry<dyn WeightFormat>>,
}

impl Items {
    /// Adds what is linked.
    pub(super) fn link(&mut self, entry: &'static Registered, origin: Arc<Origin>) {
        match entry.item {
            Registration::Architecture(item) => self.architectures.push(Entry { origin, item: Arc::new(Linked(item)) }),
            Registration::Pooling(item) => self.pooling.push(Entry { origin, item: Arc::new(Linked(item)) }),
            Registration::Rewrite(item) => self.rewrites.push(Entry { origin, item: Arc::new(Linked(item)) }),
            Registration::Format(item) => self.formats.push(Entry { origin, item: Arc::new(Format(item)) }),
        }
    }

    /// Adds what comes from a file.
    pub(super) fn load(&mut self, plugin: &Plugin, origin: &Arc<Origin>) {
        fn entries<T: ?Sized>(origin: &Arc<Origin>, items: Vec<Box<T>>) -> impl Iterator<Item = Entry<T>> {
            items.into_iter().map(|item| Entry { origin: Arc::clone(origin), item: Arc::from(item) })
        }
        self.architectures.extend(entries(origin, plugin.architectures()));
        self.pooling.extend(entries(origin, plugin.pooling_heads()));
        self.rewrites.extend(entries(origin, plugin.rewrites()));
        self.formats.extend(entries(origin, plugin.formats()));
        self.sort();
    }

    pub(super) fn sort(&mut self) {
        self.architectures.sort_by(|a, b| (&a.origin, a.item.names()).cmp(&(&b.origin, b.item.names())));
        self.pooling.sort_by(|a, b| (&a.origin, a.item.name()).cmp(&(&b.origin, b.item.name())));
        self.rewrites.sort_by(|a, b| (&a.origin, a.item.name()).cmp(&(&b.origin, b.item.name())));
        self.formats.sort_by(|a, b| (&a.origin, a.item.name()).cmp(&(&b.origin, b.item.name())));
    }
}

/// A linked weight format: nothing of it is a model, so nothing has to cross.
struct Format(&'static dyn WeightFormat);

impl WeightFormat for Format {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn probe(&self, head: &[u8], file_name: &str) -> bool {
        self.0.probe(head, file_name)
    }

    fn index(&self, head: &[u8], length: u64) -> Result<HeaderNeed, PluginError> {
        self.0.index(head, length)
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        self.0.decode(encoding, bytes, out)
    }
}
