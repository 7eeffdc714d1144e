//! The types a tensor can have: numbers as they are, blocks that are decoded, and blocks that are only measured.

use qeff_plugin_api::DType;

/// Quantised blocks that are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, non_camel_case_types)] // the names are the format's
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// One after the other.
    Plain(DType),
    /// In blocks that are decoded to f32.
    Blocks(BlockType),
    /// In a type that is only known by name.
    Opaque(&'static str),
    /// In a type that is not known: neither its size nor its name.
    Unknown(u32),
}

impl Storage {
    /// The type as it is called.
    pub fn name(self) -> String {
        match (self, self.row()) {
            (_, Some(row)) => row.name.to_owned(),
            (Storage::Unknown(id), _) => format!("type {id}"),
            _ => "an unnamed type".to_owned(),
        }
    }

    /// The type with this number in a file.
    pub(super) fn of(id: u32) -> Self {
        TABLE.iter().find(|row| row.id == id).map_or(Storage::Unknown(id), |row| row.storage)
    }

    pub(super) fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.storage == self)
    }
}

/// A type: its number, its name, the elements of a block and the bytes they take.
#[derive(Debug)]
pub(super) struct Row {
    id: u32,
    pub(super) name: &'static str,
    storage: Storage,
    pub(super) block: u64,
    pub(super) bytes: u64,
}

impl BlockType {
    /// Elements of a block, and bytes they take.
    pub(in crate::weights) fn sizes(self) -> (u64, u64) {
        match Storage::Blocks(self).row() {
            Some(row) => (row.block, row.bytes),
            None => unreachable!("every block type has a row"),
        }
    }
}

const fn row(id: u32, name: &'static str, storage: Storage, block: u64, bytes: u64) -> Row {
    Row { id, name, storage, block, bytes }
}

const fn plain(id: u32, name: &'static str, dtype: DType, bytes: u64) -> Row {
    row(id, name, Storage::Plain(dtype), 1, bytes)
}

const fn blocks(id: u32, name: &'static str, ty: BlockType, block: u64, bytes: u64) -> Row {
    row(id, name, Storage::Blocks(ty), block, bytes)
}

const fn opaque(id: u32, name: &'static str, block: u64, bytes: u64) -> Row {
    row(id, name, Storage::Opaque(name), block, bytes)
}

const TABLE: &[Row] = &[
    plain(0, "F32", DType::F32, 4),
    plain(1, "F16", DType::F16, 2),
    blocks(2, "Q4_0", BlockType::Q4_0, 32, 18),
    blocks(3, "Q4_1", BlockType::Q4_1, 32, 20),
    blocks(6, "Q5_0", BlockType::Q5_0, 32, 22),
    blocks(7, "Q5_1", BlockType::Q5_1, 32, 24),
    blocks(8, "Q8_0", BlockType::Q8_0, 32, 34),
    opaque(9, "Q8_1", 32, 36),
    blocks(10, "Q2_K", BlockType::Q2_K, 256, 84),
    blocks(11, "Q3_K", BlockType::Q3_K, 256, 110),
    blocks(12, "Q4_K", BlockType::Q4_K, 256, 144),
    blocks(13, "Q5_K", BlockType::Q5_K, 256, 176),
    blocks(14, "Q6_K", BlockType::Q6_K, 256, 210),
    blocks(15, "Q8_K", BlockType::Q8_K, 256, 292),
    opaque(16, "IQ2_XXS", 256, 66),
    opaque(17, "IQ2_XS", 256, 74),
    opaque(18, "IQ3_XXS", 256, 98),
    opaque(19, "IQ1_S", 256, 50),
    blocks(20, "IQ4_NL", BlockType::IQ4_NL, 32, 18),
    opaque(21, "IQ3_S", 256, 110),
    opaque(22, "IQ2_S", 256, 82),
    blocks(23, "IQ4_XS", BlockType::IQ4_XS, 256, 136),
    plain(24, "I8", DType::I8, 1),
    plain(25, "I16", DType::I16, 2),
    plain(26, "I32", DType::I32, 4),
    plain(27, "I64", DType::I64, 8),
    plain(28, "F64", DType::F64, 8),
    opaque(29, "IQ1_M", 256, 56),
    plain(30, "BF16", DType::BF16, 2),
    opaque(34, "TQ1_0", 256, 54),
    opaque(35, "TQ2_0", 256, 66),
    blocks(39, "MXFP4", BlockType::MXFP4, 32, 17),
];
