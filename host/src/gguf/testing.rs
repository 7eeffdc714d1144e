//! GGUF files for tests, by hand.

/// A file that grows.
#[derive(Default)]
pub(crate) struct File {
    pairs: Vec<u8>,
    count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl File {
    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.extend([&text(key), &kind.to_le_bytes()[..], value].concat());
        self.count += 1;
        self
    }

    fn list(self, key: &str, kind: u32, len: usize, values: &[u8]) -> Self {
        self.pair(key, 9, &[&kind.to_le_bytes(), &(len as u64).to_le_bytes()[..], values].concat())
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.pair(key, 8, &text(value))
    }

    pub(crate) fn whole(self, key: &str, value: u32) -> Self {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn number(self, key: &str, value: f32) -> Self {
        self.pair(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn flag(self, key: &str, value: bool) -> Self {
        self.pair(key, 7, &[value.into()])
    }

    pub(crate) fn texts(self, key: &str, values: &[&str]) -> Self {
        self.list(key, 8, values.len(), &values.iter().flat_map(|value| text(value)).collect::<Vec<_>>())
    }

    pub(crate) fn wholes(self, key: &str, values: &[i32]) -> Self {
        self.list(key, 5, values.len(), &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    /// An f32 tensor; dimensions slowest first.
    pub(crate) fn tensor(mut self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        self.tensors.extend(text(name));
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        self.tensors.extend(shape.iter().rev().flat_map(|dim| dim.to_le_bytes()));
        self.tensors.extend(0u32.to_le_bytes());
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        self.tensor_count += 1;
        self.data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensor_count.to_le_bytes(), self.count.to_le_bytes()].concat();
        let mut bytes = [b"GGUF\x03\0\0\0", &counts[..], &self.pairs, &self.tensors].concat();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}
