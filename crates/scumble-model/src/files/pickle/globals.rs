//! Which Python names a file of weights may mention.
//!
//! Three kinds: the constructors of tensors and plain containers, which we act out ourselves; classes that
//! published checkpoints drag along (Lightning, numpy, dates), which become inert placeholders; everything else,
//! which is refused by name. Nothing is ever imported or called.

use scumble_tensor::DType;

/// What a permitted name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// `OrderedDict` and `dict`: an optional list of pairs, then items.
    Dict,
    /// `defaultdict`: its argument makes values, which we do not need.
    DefaultDict,
    /// `set`, `list`, `tuple`, `torch.Size`: of the elements of the one argument.
    Collection,
    /// `_codecs.encode`: how protocol 2 spells bytes.
    Encode,
    /// (storage, offset, size, stride, ...).
    RebuildTensor,
    /// (tensor, ...).
    RebuildParameter,
    /// (function, class, arguments, state).
    RebuildFromType,
    /// A storage of this element type.
    Storage(DType),
    /// A storage of an element type that is not read.
    UnsupportedStorage,
    /// A tensor of a kind that is not read: sparse, quantised, or of an element type without a storage class.
    UnsupportedTensor,
    /// A class that is never constructed.
    Inert,
}

const STORAGES: [(&str, DType); 10] = [
    ("DoubleStorage", DType::F64),
    ("FloatStorage", DType::F32),
    ("HalfStorage", DType::F16),
    ("BFloat16Storage", DType::BF16),
    ("LongStorage", DType::I64),
    ("IntStorage", DType::I32),
    ("ShortStorage", DType::I16),
    ("CharStorage", DType::I8),
    ("ByteStorage", DType::U8),
    ("BoolStorage", DType::Bool),
];

/// The class of a storage of this element type, if torch has one.
pub(super) fn storage_class(dtype: DType) -> Option<&'static str> {
    STORAGES.iter().find(|(_, listed)| *listed == dtype).map(|(class, _)| *class)
}

/// Exact names of harmless classes and functions that checkpoints mention.
const INERT: &[&str] = &[
    "argparse.Namespace",
    "collections.Counter",
    "collections.deque",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "enum.Enum",
    "fractions.Fraction",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Buffer",
    "torch.serialization._get_layout",
    "torch.nn.parameter.Parameter",
    "types.SimpleNamespace",
    "typing.Any",
    "typing.Dict",
    "typing.List",
    "uuid.UUID",
];

/// Packages whose classes appear in checkpoints of the trainers that use them.
const INERT_PACKAGES: &[&str] = &[
    "diffusers",
    "ldm",
    "lightning",
    "lightning_fabric",
    "numpy.dtypes",
    "omegaconf",
    "pytorch_lightning",
    "sgm",
    "torch.nn.modules",
    "torch.optim",
    "transformers",
];

/// Tensor types that the oldest files name beside each tensor.
const TENSOR_TYPES: &[&str] = &[
    "DoubleTensor",
    "FloatTensor",
    "HalfTensor",
    "LongTensor",
    "IntTensor",
    "ShortTensor",
    "CharTensor",
    "ByteTensor",
];

const BUILTIN_CLASSES: &[&str] = &[
    "object",
    "int",
    "long",
    "float",
    "complex",
    "bool",
    "str",
    "unicode",
    "bytes",
    "bytearray",
    "range",
    "slice",
];

const TORCH_TYPES: &[&str] = &[
    "float16", "float32", "float64", "bfloat16", "half", "float", "double", "int8", "int16", "int32",
    "int64", "uint8", "bool", "long", "int", "short", "strided",
];

/// What `module.name` stands for; `None` if it has no business in a file of weights.
pub(super) fn classify(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::Dict,
        ("collections", "defaultdict") => Global::DefaultDict,
        ("_codecs", "encode") => Global::Encode,
        ("torch", "Size") => Global::Collection,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
        ("torch._utils", other) if other.starts_with("_rebuild_") && !other.contains('.') => {
            Global::UnsupportedTensor
        }
        ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("torch" | "torch.cuda" | "torch.storage", storage) if storage.ends_with("Storage") => {
            match STORAGES.iter().find(|(spelled, _)| *spelled == storage) {
                Some(&(_, dtype)) => Global::Storage(dtype),
                None => Global::UnsupportedStorage,
            }
        }
        ("torch" | "torch.cuda", tensor) if TENSOR_TYPES.contains(&tensor) => Global::Inert,
        ("torch", dtype) if TORCH_TYPES.contains(&dtype) => Global::Inert,
        ("builtins" | "__builtin__", "dict") => Global::Dict,
        ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple") => Global::Collection,
        ("builtins" | "__builtin__", class) if BUILTIN_CLASSES.contains(&class) => Global::Inert,
        _ if is_inert(module, name) => Global::Inert,
        _ => return None,
    })
}

fn is_inert(module: &str, name: &str) -> bool {
    // Protocol 4 allows dotted names, which reach attributes of attributes: nothing honest needs that here.
    if name.contains('.') {
        return false;
    }
    let in_package = |package: &&str| {
        module.strip_prefix(*package).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let exact =
        |listed: &&str| listed.strip_prefix(module).and_then(|rest| rest.strip_prefix('.')) == Some(name);
    INERT.iter().any(exact) || INERT_PACKAGES.iter().any(in_package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_refused_and_weights_are_not() {
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("__builtin__", "exec"),
            ("subprocess", "Popen"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch.serialization", "load"),
            ("numpy.testing._private.utils", "runstring"),
            ("numpy", "load"),
            ("pathlib", "os.system"),
            ("omegaconf", "sys.modules"),
            ("pytorch_lightningx", "Thing"),
            ("collections", "OrderedDict.fromkeys"),
        ] {
            assert_eq!(classify(module, name), None, "{module}.{name}");
        }
        assert_eq!(classify("torch", "HalfStorage"), Some(Global::Storage(DType::F16)));
        assert_eq!(classify("torch", "ComplexFloatStorage"), Some(Global::UnsupportedStorage));
        assert_eq!(
            classify("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            Some(Global::Inert)
        );
        assert_eq!(classify("numpy.core.multiarray", "scalar"), Some(Global::Inert));
        assert_eq!(classify("torch._utils", "_rebuild_tensor_v3"), Some(Global::UnsupportedTensor));
        assert_eq!(classify("collections", "OrderedDict"), Some(Global::Dict));
    }
}
