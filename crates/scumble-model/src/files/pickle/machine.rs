//! A pickle's stack machine, protocols 0 to 5, that builds values and nothing else.
//!
//! Values live in an arena and refer to each other by number, so that nesting costs no recursion and sharing no
//! copies. Every step, value and byte of text is counted against a budget: a file of any length ends early.
//! Opcode letters are those of Python's `pickletools`.

use std::collections::BTreeMap;
use std::sync::Arc;

use scumble_tensor::DType;

use super::globals::{Global, classify};
use super::value::{PickledTensor, StorageDeclaration, Value};

/// A Lightning checkpoint of a full model with optimizer state takes about 100 thousand.
pub(super) const MAX_STEPS: usize = 4 << 20;
/// Values alive at the end of reading; a value takes at most 56 bytes.
const MAX_VALUES: usize = 2 << 20;
/// Text and bytes that are copied out of the file.
pub(super) const MAX_TEXT: usize = 64 << 20;
/// Elements that calls copy or pass: a long list given to a constructor again and again.
const MAX_COPIED: usize = 8 << 20;
/// Storages, and separately tensors; a full model has about two thousand.
pub(super) const MAX_TENSORS: usize = 256 << 10;
/// Containers inside containers.
const MAX_NESTING: usize = 100;
/// A view that repeats elements (stride 0) may need more memory than its file has; up to this it is accepted.
const MAX_EXPANDED_BYTES: usize = 64 << 20;
pub(super) const MAX_RANK: usize = 6;

/// Why a pickle is not read; the caller adds the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `module.name` that is not permitted.
    Refused(String),
    /// A broken rule.
    Malformed(String),
    /// A storage class whose elements are not read.
    UnsupportedDType(String),
    /// A budget is used up.
    TooMuch(&'static str, usize),
}

type Outcome<T> = Result<T, Fault>;

fn malformed<T>(reason: impl Into<String>) -> Outcome<T> {
    Err(Fault::Malformed(reason.into()))
}

/// Number of a value in the arena.
type Id = u32;

#[derive(Clone, Debug)]
enum Node {
    Leaf(Value),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global, Arc<str>),
    Storage(u32),
}

/// The result of one pickle.
pub(super) struct Loaded {
    pub value: Value,
    /// Every storage mentioned, referenced or not.
    pub storages: Vec<StorageDeclaration>,
    /// Bytes consumed, the STOP included.
    pub end: usize,
}

/// Reads the pickle at the beginning of `bytes`.
pub(super) fn load(bytes: &[u8]) -> Outcome<Loaded> {
    let mut machine = Machine { bytes, ..Machine::default() };
    let root = machine.run()?;
    let mut frozen = BTreeMap::new();
    let value = machine.freeze(root, 0, &mut frozen)?;
    Ok(Loaded { value, storages: machine.storages, end: machine.position })
}

/// As [`load`], where persistent ids are the keys of tensors that were found elsewhere.
pub(super) fn load_with(bytes: &[u8], known: BTreeMap<i64, Arc<PickledTensor>>) -> Outcome<Loaded> {
    let mut machine = Machine { bytes, known: Some(known), ..Machine::default() };
    let root = machine.run()?;
    let mut frozen = BTreeMap::new();
    let value = machine.freeze(root, 0, &mut frozen)?;
    Ok(Loaded { value, storages: machine.storages, end: machine.position })
}

/// What a frozen value names, where it should be the class of a storage.
pub(super) enum StorageClass {
    /// Of this element type.
    Known(DType),
    /// Of a type that is not read.
    Unread(Arc<str>),
    /// No class of a storage.
    None,
}

/// The storage class that a frozen value is.
pub(super) fn storage_class_of(value: &Value) -> StorageClass {
    let Value::Opaque(name) = value else { return StorageClass::None };
    match name.rsplit_once('.').and_then(|(module, class)| classify(module, class)) {
        Some(Global::Storage(dtype)) => StorageClass::Known(dtype),
        Some(Global::UnsupportedStorage) => StorageClass::Unread(Arc::clone(name)),
        _ => StorageClass::None,
    }
}

/// A checked view of a storage.
pub(super) fn view(
    storage: &StorageDeclaration,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
) -> Outcome<PickledTensor> {
    let elements = shape.iter().try_fold(storage.dtype.size(), |total, &n| total.checked_mul(n));
    let Some(bytes) = elements else {
        return malformed(format!("a tensor of shape {shape:?} is larger than memory can address"));
    };
    let last = shape.iter().zip(&strides).try_fold(offset, |last, (&size, &stride)| {
        last.checked_add(size.saturating_sub(1).checked_mul(stride)?)
    });
    if bytes > 0 && last.is_none_or(|last| last >= storage.view_numel) {
        return malformed(format!(
            "a tensor of shape {shape:?}, strides {strides:?}, offset {offset} reaches beyond its storage of {} elements",
            storage.view_numel
        ));
    }
    if bytes > storage.numel * storage.dtype.size() && bytes > MAX_EXPANDED_BYTES {
        return Err(Fault::TooMuch("bytes of a repeating tensor", MAX_EXPANDED_BYTES));
    }
    Ok(PickledTensor {
        storage: Arc::clone(&storage.key),
        dtype: storage.dtype,
        shape,
        strides,
        offset: if bytes > 0 { offset + storage.view_offset } else { 0 },
    })
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    /// Tensors by key, for pickles that refer to them.
    known: Option<BTreeMap<i64, Arc<PickledTensor>>>,
    position: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at each MARK.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Id>,
    storages: Vec<StorageDeclaration>,
    text_bytes: usize,
    copied: usize,
    tensors: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Outcome<Id> {
        for _ in 0..MAX_STEPS {
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
        Err(Fault::TooMuch("instructions", MAX_STEPS))
    }

    fn step(&mut self, opcode: u8) -> Outcome<()> {
        match opcode {
            0x80 => {
                let protocol = self.take(1)?[0];
                if protocol > 5 {
                    malformed(format!("pickle protocol {protocol}; 0 to 5 are known"))
                } else {
                    Ok(())
                }
            }
            0x95 => self.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => {
                    self.marks.pop();
                    Ok(())
                }
                _ => self.pop().map(drop),
            },
            b'1' => self.pop_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'N' | 0x88 | 0x89 | b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b | b'F' | b'G' => {
                self.number(opcode)
            }
            b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => self.text(opcode),
            b')' | b't' | 0x85..=0x87 | b']' | b'l' | b'}' | b'd' | 0x8f | 0x91 => self.container(opcode),
            b'a' | b'e' | 0x90 | b's' | b'u' => self.extend(opcode),
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.memory(opcode),
            b'c' | 0x93 | b'i' | b'o' | b'R' | 0x81 | 0x92 | b'b' => self.class(opcode),
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)
            }
            b'P' => malformed("a persistent id in text form, which torch never writes"),
            0x82..=0x84 => Err(Fault::Refused("a copyreg extension code".into())),
            0x97 | 0x98 => malformed("an out-of-band buffer, which no file can hold"),
            _ => malformed(format!("unknown instruction 0x{opcode:02x} at byte {}", self.position - 1)),
        }
    }

    fn number(&mut self, opcode: u8) -> Outcome<()> {
        let value = match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(self.take(1)?[0].into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            b'F' => {
                let line = self.line()?;
                match line.trim().parse() {
                    Ok(value) => Value::Float(value),
                    Err(_) => return malformed("a number that is none"),
                }
            }
            b'I' | b'L' => {
                let line = self.line()?;
                match (opcode, line) {
                    (b'I', "00") => Value::Bool(false),
                    (b'I', "01") => Value::Bool(true),
                    (_, digits) => match digits.trim_end_matches('L').parse() {
                        Ok(value) => Value::Int(value),
                        Err(_) => return malformed("a whole number that is none, or of more than 64 bits"),
                    },
                }
            }
            _ => {
                let length = if opcode == 0x8a { self.take(1)?[0] as usize } else { self.length32()? };
                long(self.take(length)?)
            }
        };
        self.push(Node::Leaf(value))
    }

    fn text(&mut self, opcode: u8) -> Outcome<()> {
        let bytes = match opcode {
            b'S' | b'V' => {
                let line = self.line()?;
                let quoted = |quote| line.strip_prefix(quote)?.strip_suffix(quote);
                let text = if opcode == b'V' { line } else { quoted('\'').or(quoted('"')).unwrap_or(line) };
                if text.contains('\\') {
                    return malformed("a string with escapes in the text protocol");
                }
                text.as_bytes()
            }
            b'U' | 0x8c | b'C' => {
                let length = self.take(1)?[0] as usize;
                self.take(length)?
            }
            b'T' | b'X' | b'B' => {
                let length = self.length32()?;
                self.take(length)?
            }
            _ => {
                let length = u64::from_le_bytes(self.array()?);
                let Ok(length) = usize::try_from(length) else {
                    return malformed("a string longer than memory");
                };
                self.take(length)?
            }
        };
        self.text_bytes += bytes.len();
        if self.text_bytes > MAX_TEXT {
            return Err(Fault::TooMuch("bytes of text", MAX_TEXT));
        }
        let must_be_text = matches!(opcode, b'V' | b'X' | 0x8c | 0x8d);
        let may_be_text = must_be_text || matches!(opcode, b'S' | b'T' | b'U');
        let value = match std::str::from_utf8(bytes) {
            Ok(text) if may_be_text => Value::Text(text.into()),
            Err(_) if must_be_text => return malformed("a string that is not UTF-8"),
            _ => Value::Bytes(bytes.into()),
        };
        self.push(Node::Leaf(value))
    }

    fn container(&mut self, opcode: u8) -> Outcome<()> {
        let node = match opcode {
            b')' => Node::Tuple(Vec::new()),
            b't' => Node::Tuple(self.pop_mark()?),
            0x85..=0x87 => Node::Tuple(self.pop_many(opcode as usize - 0x84)?),
            b']' | 0x8f => Node::List(Vec::new()),
            b'l' | 0x91 => Node::List(self.pop_mark()?),
            b'}' => Node::Dict(Vec::new()),
            _ => Node::Dict(pairs(self.pop_mark()?)?),
        };
        self.push(node)
    }

    fn extend(&mut self, opcode: u8) -> Outcome<()> {
        let items = match opcode {
            b'a' => self.pop_many(1)?,
            b's' => self.pop_many(2)?,
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        match (&mut self.nodes[target as usize], opcode) {
            (Node::List(list), b'a' | b'e' | 0x90) => list.extend(items),
            (Node::Dict(dict), b's' | b'u') => dict.extend(pairs(items)?),
            // Items of something that is never constructed are dropped with it.
            (Node::Leaf(Value::Opaque(_)), _) => {}
            _ => return malformed("items for something that is no container"),
        }
        Ok(())
    }

    fn memory(&mut self, opcode: u8) -> Outcome<()> {
        let index = match opcode {
            b'p' | b'g' => match self.line()?.parse() {
                Ok(index) => index,
                Err(_) => return malformed("a memo index that is no number"),
            },
            b'q' | b'h' => self.take(1)?[0].into(),
            b'r' | b'j' => u32::from_le_bytes(self.array()?).into(),
            _ => self.memo.len() as u64,
        };
        if matches!(opcode, b'g' | b'h' | b'j') {
            let Some(&id) = self.memo.get(&index) else {
                return malformed(format!("memo entry {index} is used but was never set"));
            };
            self.stack.push(id);
        } else {
            let top = self.top()?;
            self.memo.insert(index, top);
        }
        Ok(())
    }

    fn class(&mut self, opcode: u8) -> Outcome<()> {
        match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let node = permitted(module, name)?;
                self.push(node)
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let (Some(module), Some(name)) = (self.as_text(names[0]), self.as_text(names[1])) else {
                    return malformed("a class name that is no string");
                };
                let node = permitted(&module, &name)?;
                self.push(node)
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let callee = permitted(module, name)?;
                let arguments = self.pop_mark()?;
                self.call(callee, arguments)
            }
            b'o' => {
                let mut arguments = self.pop_mark()?;
                if arguments.is_empty() {
                    return malformed("an object without a class");
                }
                let callee = self.copy(arguments.remove(0))?;
                self.call(callee, arguments)
            }
            b'b' => {
                // State of an OrderedDict or Parameter (attributes) or of an opaque object: not weights.
                self.pop()?;
                self.top().map(drop)
            }
            _ => {
                if opcode == 0x92 {
                    self.pop()?;
                }
                let operands = self.pop_many(2)?;
                let Node::Tuple(arguments) = self.copy(operands[1])? else {
                    return malformed("arguments that are no tuple");
                };
                let callee = self.copy(operands[0])?;
                self.call(callee, arguments)
            }
        }
    }

    /// Acts out one of the permitted constructors.
    fn call(&mut self, callee: Node, arguments: Vec<Id>) -> Outcome<()> {
        let Node::Global(global, name) = callee else {
            return malformed("a call of something that is no class");
        };
        let first = arguments.first().map(|&id| self.copy(id)).transpose()?;
        let node = match (global, first) {
            (Global::Dict, None) | (Global::DefaultDict, _) => Node::Dict(Vec::new()),
            (Global::Dict, Some(Node::Dict(pairs))) => Node::Dict(pairs),
            (Global::Dict, Some(Node::List(items))) => Node::Dict(self.listed_pairs(&items)?),
            (Global::Collection, None) => Node::List(Vec::new()),
            (Global::Collection, Some(Node::List(items) | Node::Tuple(items))) => Node::List(items),
            (Global::Encode, Some(Node::Leaf(Value::Text(text)))) => match latin1(&text) {
                Some(bytes) => Node::Leaf(Value::Bytes(bytes.into())),
                None => return malformed("bytes with characters beyond Latin-1"),
            },
            (Global::UnsupportedTensor, _) => return Err(Fault::UnsupportedDType(name.to_string())),
            (Global::RebuildTensor, _) => self.tensor(&arguments)?,
            (Global::RebuildParameter, Some(tensor @ Node::Leaf(Value::Tensor(_)))) => tensor,
            (Global::RebuildFromType, Some(function @ Node::Global(inner, _)))
                if inner != Global::RebuildFromType =>
            {
                let inner_arguments = arguments.get(2).map(|&id| self.copy(id)).transpose()?;
                let Some(Node::Tuple(inner_arguments)) = inner_arguments else {
                    return malformed(format!("`{name}` without a tuple of arguments"));
                };
                return self.call(function, inner_arguments);
            }
            (Global::Inert | Global::Encode, _) => Node::Leaf(Value::Opaque(name)),
            _ => return malformed(format!("`{name}` with arguments it does not take")),
        };
        self.push(node)
    }

    /// A value's node, its elements charged to the budget.
    fn copy(&mut self, id: Id) -> Outcome<Node> {
        let node = &self.nodes[id as usize];
        self.copied += match node {
            Node::Tuple(ids) | Node::List(ids) => ids.len(),
            Node::Dict(pairs) => 2 * pairs.len(),
            _ => 0,
        };
        if self.copied > MAX_COPIED {
            return Err(Fault::TooMuch("copied elements", MAX_COPIED));
        }
        Ok(node.clone())
    }

    fn listed_pairs(&self, items: &[Id]) -> Outcome<Vec<(Id, Id)>> {
        items
            .iter()
            .map(|&item| match &self.nodes[item as usize] {
                Node::List(pair) | Node::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
                _ => malformed("a dictionary made of something that is no pair"),
            })
            .collect()
    }

    /// `('storage', class, key, location, numel[, view])`; the location does not matter here.
    fn persistent(&mut self, id: Id) -> Outcome<()> {
        if self.known.is_some() {
            return self.by_key(id);
        }
        let Node::Tuple(parts) = &self.nodes[id as usize] else {
            return malformed("a persistent id that is no tuple");
        };
        let [kind, class, key, _, numel, rest @ ..] = parts.as_slice() else {
            return malformed(format!("a persistent id of {} parts, not 5 or 6", parts.len()));
        };
        if self.as_text(*kind).as_deref() != Some("storage") {
            return malformed("a persistent id that is no storage");
        }
        let dtype = match &self.nodes[*class as usize] {
            Node::Global(Global::Storage(dtype), _) => *dtype,
            Node::Global(Global::UnsupportedStorage, name) => {
                return Err(Fault::UnsupportedDType(name.to_string()));
            }
            _ => return malformed("a storage without a storage class"),
        };
        let Some(key) = self.as_text(*key).filter(|key| key.len() <= 256) else {
            return malformed("a storage without a key");
        };
        let numel = self.size(*numel, "the length of a storage")?;
        let (mut view_offset, mut view_numel) = (0, numel);
        if let [view] = rest
            && let Node::Tuple(view) = &self.nodes[*view as usize]
        {
            let [_, offset, length] = view.as_slice() else {
                return malformed("a storage view without its extent");
            };
            view_offset = self.size(*offset, "the offset of a storage view")?;
            view_numel = self.size(*length, "the length of a storage view")?;
            if view_offset.checked_add(view_numel).is_none_or(|end| end > numel) {
                return malformed(format!(
                    "a view of {view_numel} elements at {view_offset} of a storage of {numel}"
                ));
            }
        }
        if numel.checked_mul(dtype.size()).is_none() {
            return malformed(format!("a storage of {numel} elements is larger than memory can address"));
        }
        if self.storages.len() >= MAX_TENSORS {
            return Err(Fault::TooMuch("storages", MAX_TENSORS));
        }
        let index = self.storages.len() as u32;
        self.storages.push(StorageDeclaration { key, dtype, numel, view_offset, view_numel });
        self.push(Node::Storage(index))
    }

    /// The key of a tensor, or `(class, its source, ...)` of a module, which stands for the class.
    fn by_key(&mut self, id: Id) -> Outcome<()> {
        let key = match &self.nodes[id as usize] {
            Node::Leaf(Value::Int(key)) => Some(*key),
            Node::Leaf(Value::Text(key)) => key.parse().ok(),
            Node::Tuple(parts) if !parts.is_empty() => {
                let class = parts[0];
                self.stack.push(class);
                return Ok(());
            }
            _ => None,
        };
        let tensor = key.and_then(|key| self.known.as_ref()?.get(&key)).cloned();
        match tensor {
            Some(tensor) => self.push(Node::Leaf(Value::Tensor(tensor))),
            None => malformed("a reference to a tensor that is not there"),
        }
    }

    /// `(storage, offset, size, stride, ...)` as a checked view.
    fn tensor(&mut self, arguments: &[Id]) -> Outcome<Node> {
        let [storage, offset, shape, strides, ..] = *arguments else {
            return malformed(format!("a tensor of {} arguments", arguments.len()));
        };
        let Node::Storage(storage) = self.nodes[storage as usize] else {
            return malformed("a tensor without a storage");
        };
        let storage = &self.storages[storage as usize];
        let offset = self.size(offset, "the offset of a tensor")?;
        let shape = self.sizes(shape, "the shape of a tensor")?;
        let strides = self.sizes(strides, "the strides of a tensor")?;
        if shape.len() != strides.len() || shape.len() > MAX_RANK {
            return malformed(format!("a tensor of {} sizes and {} strides", shape.len(), strides.len()));
        }
        let tensor = view(storage, offset, shape, strides)?;
        self.tensors += 1;
        if self.tensors > MAX_TENSORS {
            return Err(Fault::TooMuch("tensors", MAX_TENSORS));
        }
        Ok(Node::Leaf(Value::Tensor(Arc::new(tensor))))
    }

    fn sizes(&self, id: Id, what: &str) -> Outcome<Vec<usize>> {
        match &self.nodes[id as usize] {
            Node::Tuple(ids) | Node::List(ids) if ids.len() <= MAX_RANK => {
                ids.iter().map(|&id| self.size(id, what)).collect()
            }
            _ => malformed(format!("{what}: expected up to {MAX_RANK} sizes")),
        }
    }

    fn size(&self, id: Id, what: &str) -> Outcome<usize> {
        match &self.nodes[id as usize] {
            Node::Leaf(Value::Int(value)) => {
                usize::try_from(*value).or_else(|_| malformed(format!("{what}: {value} is negative")))
            }
            _ => malformed(format!("{what}: no whole number of 64 bits")),
        }
    }

    fn as_text(&self, id: Id) -> Option<Arc<str>> {
        match &self.nodes[id as usize] {
            Node::Leaf(Value::Text(text)) => Some(Arc::clone(text)),
            _ => None,
        }
    }

    /// Turns the arena into shared values. Cycles are as deep as anything, so the bound on nesting ends them.
    fn freeze(&self, id: Id, depth: usize, frozen: &mut BTreeMap<Id, Value>) -> Outcome<Value> {
        if let Some(value) = frozen.get(&id) {
            return Ok(value.clone());
        }
        if depth > MAX_NESTING {
            return Err(Fault::TooMuch("containers inside each other", MAX_NESTING));
        }
        let freeze_all = |ids: &[Id], frozen: &mut BTreeMap<Id, Value>| -> Outcome<Arc<[Value]>> {
            ids.iter().map(|&id| self.freeze(id, depth + 1, frozen)).collect()
        };
        let value = match &self.nodes[id as usize] {
            Node::Leaf(value) => return Ok(value.clone()),
            Node::Tuple(ids) => Value::Tuple(freeze_all(ids, frozen)?),
            Node::List(ids) => Value::List(freeze_all(ids, frozen)?),
            Node::Dict(pairs) => {
                let mut items = Vec::with_capacity(pairs.len());
                for &(key, value) in pairs {
                    items
                        .push((self.freeze(key, depth + 1, frozen)?, self.freeze(value, depth + 1, frozen)?));
                }
                Value::Dict(items.into())
            }
            Node::Global(_, name) => return Ok(Value::Opaque(Arc::clone(name))),
            Node::Storage(_) => return Ok(Value::Opaque("a bare storage".into())),
        };
        frozen.insert(id, value.clone());
        Ok(value)
    }

    fn push(&mut self, node: Node) -> Outcome<()> {
        if self.nodes.len() >= MAX_VALUES {
            return Err(Fault::TooMuch("values", MAX_VALUES));
        }
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
        Ok(())
    }

    /// Heights below the last MARK are out of reach, as in Python.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Outcome<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => malformed("the stack is empty"),
        }
    }

    fn pop(&mut self) -> Outcome<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Outcome<Vec<Id>> {
        if self.stack.len() - self.floor() < count {
            return malformed("the stack is empty");
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_mark(&mut self) -> Outcome<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => malformed("the end of a group that never began"),
        }
    }

    fn take(&mut self, length: usize) -> Outcome<&'a [u8]> {
        let bytes = self.bytes.get(self.position..).and_then(|rest| rest.get(..length));
        let Some(bytes) = bytes else { return malformed("the pickle ends in the middle") };
        self.position += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn length32(&mut self) -> Outcome<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    /// Text up to the next line feed; names and numbers, so never long.
    fn line(&mut self) -> Outcome<&'a str> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let Some(length) = rest.iter().take(1 << 16).position(|&byte| byte == b'\n') else {
            return malformed("a line without an end");
        };
        self.position += length + 1;
        std::str::from_utf8(&rest[..length]).or_else(|_| malformed("a line that is not UTF-8"))
    }
}

fn permitted(module: &str, name: &str) -> Outcome<Node> {
    let full = format!("{module}.{name}");
    match classify(module, name) {
        Some(global) => Ok(Node::Global(global, full.into())),
        None => Err(Fault::Refused(full)),
    }
}

fn pairs(items: Vec<Id>) -> Outcome<Vec<(Id, Id)>> {
    match items.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => malformed("a dictionary with a key that has no value"),
    }
}

/// A little-endian two's-complement number; those that do not fit 64 bits are only named.
fn long(bytes: &[u8]) -> Value {
    let fill = if bytes.last().is_some_and(|&top| top >= 0x80) { 0xff } else { 0 };
    let mut low = [fill; 8];
    let kept = bytes.len().min(8);
    low[..kept].copy_from_slice(&bytes[..kept]);
    let value = i64::from_le_bytes(low);
    if bytes[kept..].iter().any(|&byte| byte != fill) || (value < 0) != (fill != 0) {
        return Value::Opaque(format!("a whole number of {} bytes", bytes.len()).into());
    }
    Value::Int(value)
}

fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect()
}
