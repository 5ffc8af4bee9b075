//! What a pickle can hold here: values, storages and views of them, in flat lists.

use crate::tensors::{Dtype, Stored};

/// Bytes of a tensor's or storage's name; T5's longest has 71.
pub(super) const LONGEST_NAME: usize = 256;

/// A value; a `usize` is an index into a list of [`Pickled`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Value<'a> {
    #[default]
    None,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    /// Floats, bytes, large integers: no tensor needs them.
    Other,
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

impl<'a> Value<'a> {
    pub(super) fn text(&self) -> Option<&'a str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Text that may be copied for every use of it: one long text in the memo costs nothing until then.
    pub(super) fn name(&self) -> Option<&'a str> {
        self.text().filter(|text| text.len() <= LONGEST_NAME)
    }

    pub(super) fn index(&self) -> Option<usize> {
        match self {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }
}

/// The Python names that a pickle may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Storage(Kind),
}

impl Global {
    pub(super) fn named(module: &str, name: &str) -> Option<Global> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Some(Global::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
            ("torch", "Size") => Some(Global::Size),
            ("torch", _) => Kind::of_class(name).map(Global::Storage),
            _ => None,
        }
    }
}

/// What a storage holds: torch's class without `Storage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    Half,
    BFloat16,
    Double,
    Long,
    Int,
    Short,
    Char,
    Byte,
    Bool,
}

impl Kind {
    fn of_class(class: &str) -> Option<Kind> {
        Some(match class.strip_suffix("Storage")? {
            "Float" => Kind::Float,
            "Half" => Kind::Half,
            "BFloat16" => Kind::BFloat16,
            "Double" => Kind::Double,
            "Long" => Kind::Long,
            "Int" => Kind::Int,
            "Short" => Kind::Short,
            "Char" => Kind::Char,
            "Byte" => Kind::Byte,
            "Bool" => Kind::Bool,
            _ => return None,
        })
    }

    /// safetensors' name of the type, which messages use for both formats.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Float => "F32",
            Kind::Half => "F16",
            Kind::BFloat16 => "BF16",
            Kind::Double => "F64",
            Kind::Long => "I64",
            Kind::Int => "I32",
            Kind::Short => "I16",
            Kind::Char => "I8",
            Kind::Byte => "U8",
            Kind::Bool => "BOOL",
        }
    }

    /// Bytes of an element.
    pub(super) fn size(self) -> usize {
        match self {
            Kind::Double | Kind::Long => 8,
            Kind::Float | Kind::Int => 4,
            Kind::Half | Kind::BFloat16 | Kind::Short => 2,
            Kind::Char | Kind::Byte | Kind::Bool => 1,
        }
    }

    pub(super) fn stored(self) -> Stored {
        match self {
            Kind::Float => Stored::Float(Dtype::F32),
            Kind::Half => Stored::Float(Dtype::F16),
            Kind::BFloat16 => Stored::Float(Dtype::BF16),
            Kind::Double => Stored::Unsupported(self.name().to_owned()),
            _ => Stored::Integer(self.name().to_owned()),
        }
    }
}

/// A storage that a pickle refers to by its persistent id.
#[derive(Debug)]
pub(super) struct StorageRef<'a> {
    pub(super) kind: Kind,
    pub(super) key: &'a str,
    /// Elements of the whole storage.
    pub(super) elements: u64,
    /// First element and length, where only a part of it is meant (the older form).
    pub(super) part: Option<(u64, u64)>,
}

impl StorageRef<'_> {
    /// Bytes of the whole storage.
    pub(super) fn byte_size(&self) -> Option<usize> {
        usize::try_from(self.elements).ok()?.checked_mul(self.kind.size())
    }
}

/// A view of a storage, in elements; not yet checked against it.
#[derive(Debug)]
pub(super) struct TensorRef {
    pub(super) storage: usize,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// As many as `shape` has.
    pub(super) stride: Vec<usize>,
}

/// A pickle's value, with everything that it contains.
#[derive(Debug, Default)]
pub(super) struct Pickled<'a> {
    pub(super) value: Value<'a>,
    /// Bytes read, the STOP included.
    pub(super) length: usize,
    pub(super) sequences: Vec<Vec<Value<'a>>>,
    pub(super) dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub(super) storages: Vec<StorageRef<'a>>,
    pub(super) tensors: Vec<TensorRef>,
}

impl<'a> Pickled<'a> {
    pub(super) fn dict(&self, value: Value<'_>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match value {
            Value::Dict(at) => self.dicts.get(at).map(Vec::as_slice),
            _ => None,
        }
    }

    pub(super) fn list(&self, value: Value<'_>) -> Option<&[Value<'a>]> {
        match value {
            Value::List(at) => self.sequences.get(at).map(Vec::as_slice),
            _ => None,
        }
    }

    pub(super) fn tensor(&self, value: Value<'_>) -> Option<&TensorRef> {
        match value {
            Value::Tensor(at) => self.tensors.get(at),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, value: Value<'_>) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(at) => self.sequences.get(at).map(Vec::as_slice),
            _ => None,
        }
    }
}
