//! A pickle machine that builds views of storages and runs nothing.
//!
//! It knows the opcodes of protocols 2 to 4 that `torch.save` uses, and the Python names that a state dict needs
//! ([`Global`]); any other name is an error that says which. Values are small and copied; what they contain lies in flat
//! lists ([`Pickled`]), so that nothing is as deep as a hostile pickle is, and every list has a limit.
//!
//! Source: CPython, `pickletools.py`; torch, `_weights_only_unpickler.py`.

use super::pickled::{Global, Pickled, StorageRef, TensorRef, Value};
use crate::error::{Error, shown};

/// Bytes of a pickle. T5 1.1 xxl has 558 tensors, each with some 120 bytes of pickle.
const LONGEST: usize = 8 << 20;
/// Values on the stack, in the memo, and in all containers together; T5 1.1 xxl needs some 15,000. Each has 24 bytes.
const MOST_VALUES: usize = 1 << 17;
/// Tensors of T5 have one or two dimensions.
const MOST_DIMENSIONS: usize = 8;

/// The value of the pickle at the start of `bytes`; `file` is the name in messages.
pub(super) fn read<'a>(file: &str, bytes: &'a [u8]) -> Result<Pickled<'a>, Error> {
    let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        contained: 0,
        out: Pickled::default(),
    };
    loop {
        let op_at = machine.at;
        let op = machine.bytes.get(op_at).copied();
        match machine.step() {
            Ok(Step::More) => {}
            Ok(Step::Stop(value)) => {
                machine.out.value = value;
                machine.out.length = machine.at;
                return Ok(machine.out);
            }
            Err(fault) => {
                let what = format!("the pickle at byte {op_at}");
                let found = op.map_or("its end".to_owned(), |op| format!("opcode {op:#04x}"));
                return Err(match fault {
                    Fault::Refused(name) => Error::Refused { file: file.to_owned(), name: shown(&name) },
                    Fault::Limit => {
                        Error::too_large(file, "the values in the pickle", MOST_VALUES as u64 + 1, MOST_VALUES as u64)
                    }
                    Fault::Wrong(expected) => Error::malformed(file, what, found, expected),
                });
            }
        }
    }
}

enum Step<'a> {
    More,
    Stop(Value<'a>),
}

enum Fault {
    Refused(String),
    Limit,
    Wrong(&'static str),
}

const CUT_OFF: Fault = Fault::Wrong("more bytes, or at most 8 MB of pickle");
const STACK: Fault = Fault::Wrong("more on the stack");
const VALUE: Fault = Fault::Wrong("a value of another kind before it");

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack where a MARK was set.
    marks: Vec<usize>,
    memo: Vec<Option<Value<'a>>>,
    /// Containers made and values put into them.
    contained: usize,
    out: Pickled<'a>,
}

impl<'a> Machine<'a> {
    /// One opcode, by its letter in pickletools.
    fn step(&mut self) -> Result<Step<'a>, Fault> {
        match self.u8()? {
            0x80 => self.protocol()?,
            0x95 => drop(self.take(8)?), // FRAME: only a hint for readers of streams
            b'.' => return self.pop().map(Step::Stop),

            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'J' => self.signed::<4>()?,   // BININT
            b'K' => self.unsigned::<1>()?, // BININT1
            b'M' => self.unsigned::<2>()?, // BININT2
            0x8a => self.long()?,          // LONG1
            b'G' => self.other(8)?,        // BINFLOAT

            b'X' => self.text::<4>()?,                               // BINUNICODE
            0x8c | b'U' => self.text::<1>()?,                        // SHORT_BINUNICODE, Python 2's SHORT_BINSTRING
            0x8d => self.text::<8>()?,                               // BINUNICODE8
            b'T' => self.text::<4>()?,                               // Python 2's BINSTRING
            b'B' => self.length::<4>().and_then(|n| self.other(n))?, // BINBYTES
            b'C' => self.length::<1>().and_then(|n| self.other(n))?, // SHORT_BINBYTES

            b')' => self.tuple(0)?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => self.since_mark().and_then(|n| self.tuple(n))?,
            b']' => self.list()?,
            b'a' => self.append(1)?,
            b'e' => self.since_mark().and_then(|n| self.append(n))?,
            b'}' => self.dict(Vec::new())?,
            b's' => self.set_items(2)?,
            b'u' => self.since_mark().and_then(|n| self.set_items(n))?,

            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark().and_then(|n| self.pop_many(n))?), // POP_MARK

            b'q' => self.length::<1>().and_then(|at| self.put(at))?,
            b'r' => self.length::<4>().and_then(|at| self.put(at))?,
            0x94 => self.put(self.memo.len())?, // MEMOIZE
            b'h' => self.length::<1>().and_then(|at| self.get(at))?,
            b'j' => self.length::<4>().and_then(|at| self.get(at))?,

            b'c' => self.global_lines()?,
            0x93 => self.global_stacked()?,
            b'Q' => self.storage()?, // BINPERSID
            b'R' => self.call()?,    // REDUCE
            b'b' => self.build()?,
            _ => return Err(Fault::Wrong("an opcode that torch.save uses")),
        }
        Ok(Step::More)
    }

    fn protocol(&mut self) -> Result<(), Fault> {
        match self.u8()? {
            2..=4 => Ok(()),
            _ => Err(Fault::Wrong("protocol 2, 3 or 4")),
        }
    }

    // Bytes.

    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(n).ok_or(CUT_OFF)?;
        let taken = self.bytes.get(self.at..end).ok_or(CUT_OFF)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Fault> {
        self.take(1)?.first().copied().ok_or(CUT_OFF)
    }

    /// An unsigned little-endian number of `N` bytes, at most 8.
    fn length<const N: usize>(&mut self) -> Result<usize, Fault> {
        let number = self.take(N)?.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
        usize::try_from(number).map_err(|_| CUT_OFF)
    }

    /// Up to the newline, which is taken too.
    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().take(256).position(|&b| b == b'\n');
        let line = self.take(length.ok_or(Fault::Wrong("a Python name of one line"))?)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| Fault::Wrong("a Python name in UTF-8"))
    }

    // Stack and memo.

    fn push(&mut self, value: Value<'a>) -> Result<(), Fault> {
        limited(self.stack.len())?;
        self.stack.push(value);
        Ok(())
    }

    /// Never below the last mark.
    fn pop(&mut self) -> Result<Value<'a>, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(STACK);
        }
        self.stack.pop().ok_or(STACK)
    }

    fn pop_many(&mut self, n: usize) -> Result<Vec<Value<'a>>, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(n).filter(|&from| from >= floor);
        Ok(self.stack.split_off(from.ok_or(STACK)?))
    }

    fn mark(&mut self) -> Result<(), Fault> {
        limited(self.marks.len())?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Takes the last mark away: how many values lie above it.
    fn since_mark(&mut self) -> Result<usize, Fault> {
        let mark = self.marks.pop().ok_or(Fault::Wrong("a MARK before it"))?;
        self.stack.len().checked_sub(mark).ok_or(STACK)
    }

    /// Writers count up from 0, so the memo is a list; a place far beyond it is a bomb.
    fn put(&mut self, at: usize) -> Result<(), Fault> {
        limited(at)?;
        let value = *self.stack.last().ok_or(STACK)?;
        if at >= self.memo.len() {
            self.memo.resize(at + 1, None);
        }
        if let Some(place) = self.memo.get_mut(at) {
            *place = Some(value);
        }
        Ok(())
    }

    fn get(&mut self, at: usize) -> Result<(), Fault> {
        let value = self.memo.get(at).copied().flatten();
        self.push(value.ok_or(Fault::Wrong("a place of the memo that was set"))?)
    }

    // Plain values.

    fn signed<const N: usize>(&mut self) -> Result<(), Fault> {
        let number = sign_extended(self.take(N)?);
        self.push(Value::Int(number))
    }

    fn unsigned<const N: usize>(&mut self) -> Result<(), Fault> {
        let number = self.length::<N>()? as i64; // of at most two bytes
        self.push(Value::Int(number))
    }

    fn long(&mut self) -> Result<(), Fault> {
        let length = self.length::<1>()?;
        let bytes = self.take(length)?;
        self.push(if length <= 8 { Value::Int(sign_extended(bytes)) } else { Value::Other })
    }

    fn other(&mut self, n: usize) -> Result<(), Fault> {
        self.take(n)?;
        self.push(Value::Other)
    }

    fn text<const N: usize>(&mut self) -> Result<(), Fault> {
        let length = self.length::<N>()?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Fault::Wrong("text in UTF-8"))?;
        self.push(Value::Text(text))
    }

    // Containers.

    /// Counts one container and `n` values in it.
    fn contain(&mut self, n: usize) -> Result<(), Fault> {
        self.contained = self.contained.saturating_add(n).saturating_add(1);
        limited(self.contained)
    }

    fn tuple(&mut self, n: usize) -> Result<(), Fault> {
        self.contain(n)?;
        let values = self.pop_many(n)?;
        self.out.sequences.push(values);
        self.push(Value::Tuple(self.out.sequences.len() - 1))
    }

    fn list(&mut self) -> Result<(), Fault> {
        self.contain(0)?;
        self.out.sequences.push(Vec::new());
        self.push(Value::List(self.out.sequences.len() - 1))
    }

    fn append(&mut self, n: usize) -> Result<(), Fault> {
        self.contain(n)?;
        let values = self.pop_many(n)?;
        let Some(&Value::List(at)) = self.stack.last() else {
            return Err(VALUE);
        };
        self.out.sequences.get_mut(at).ok_or(VALUE)?.extend(values);
        Ok(())
    }

    fn dict(&mut self, items: Vec<(Value<'a>, Value<'a>)>) -> Result<(), Fault> {
        self.contain(2 * items.len())?;
        self.out.dicts.push(items);
        self.push(Value::Dict(self.out.dicts.len() - 1))
    }

    fn set_items(&mut self, n: usize) -> Result<(), Fault> {
        self.contain(n)?;
        let values = self.pop_many(n)?;
        let Some(&Value::Dict(at)) = self.stack.last() else {
            return Err(VALUE);
        };
        let (pairs, []) = values.as_chunks::<2>() else {
            return Err(Fault::Wrong("a value for each key"));
        };
        let items = pairs.iter().map(|&[key, value]| (key, value));
        self.out.dicts.get_mut(at).ok_or(VALUE)?.extend(items);
        Ok(())
    }

    // Python's names, and what they would do.

    fn global_lines(&mut self) -> Result<(), Fault> {
        let (module, name) = (self.line()?, self.line()?);
        self.global(module, name)
    }

    fn global_stacked(&mut self) -> Result<(), Fault> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Some(module), Some(name)) = (module.text(), name.text()) else {
            return Err(VALUE);
        };
        self.global(module, name)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        match Global::named(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(Fault::Refused(format!("{module}.{name}"))),
        }
    }

    /// `('storage', class, key, device, elements)`, in the older form with None or `(key, first, elements)` at the end.
    fn storage(&mut self) -> Result<(), Fault> {
        const EXPECTED: Fault = Fault::Wrong("the persistent id of a storage before it");
        let id = self.pop()?;
        let (fixed, view) = match self.out.tuple(id) {
            Some([fixed @ .., last]) if fixed.len() == 5 => (fixed, Some(*last)),
            Some(fixed) => (fixed, None),
            None => return Err(EXPECTED),
        };
        let [Value::Text("storage"), Value::Global(Global::Storage(kind)), key, _, elements] = fixed else {
            return Err(EXPECTED);
        };
        let key = key.name().ok_or(EXPECTED)?;
        let part = match view {
            None | Some(Value::None) => None,
            Some(view) => match self.out.tuple(view) {
                Some([_, first, length]) => Some((count(first)?, count(length)?)),
                _ => return Err(EXPECTED),
            },
        };
        let storage = StorageRef { kind: *kind, key, elements: count(elements)?, part };
        self.contain(2)?;
        self.out.storages.push(storage);
        self.push(Value::Storage(self.out.storages.len() - 1))
    }

    fn call(&mut self) -> Result<(), Fault> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let arguments = self.out.tuple(arguments).ok_or(VALUE)?;
        match (callable, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.dict(Vec::new()),
            (Value::Global(Global::OrderedDict), &[items]) => self.dict_of_pairs(items),
            (Value::Global(Global::RebuildTensor), &[storage, offset, shape, stride, ref rest @ ..]) => {
                // requires_grad, backward_hooks, and then what else there is to do, such as changing all signs.
                let nothing =
                    |more: &Value<'_>| matches!(more, Value::None) || self.out.dict(*more).is_some_and(<[_]>::is_empty);
                match rest.get(2).is_none_or(nothing) {
                    true => self.tensor(storage, offset, shape, stride),
                    false => Err(Fault::Wrong("a tensor without metadata, as a negative or conjugate view has it")),
                }
            }
            (Value::Global(Global::RebuildParameter), &[tensor @ Value::Tensor(_), ..]) => self.push(tensor),
            (Value::Global(Global::Size), &[shape @ Value::Tuple(_)]) => self.push(shape),
            _ => Err(Fault::Wrong("a call of OrderedDict, of torch's rebuild functions or of torch.Size")),
        }
    }

    /// Python 2 writes an OrderedDict with its items: a list of lists of two.
    fn dict_of_pairs(&mut self, items: Value<'a>) -> Result<(), Fault> {
        let pairs = self.out.list(items).ok_or(VALUE)?;
        limited(pairs.len().saturating_add(self.contained))?; // before they are copied
        let pair = |pair: &Value<'a>| match self.out.list(*pair).or_else(|| self.out.tuple(*pair)) {
            Some(&[key, value]) => Ok((key, value)),
            _ => Err(VALUE),
        };
        let items = pairs.iter().map(pair).collect::<Result<_, _>>()?;
        self.dict(items)
    }

    fn tensor(
        &mut self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        stride: Value<'a>,
    ) -> Result<(), Fault> {
        let Value::Storage(storage) = storage else {
            return Err(Fault::Wrong("a tensor of a storage"));
        };
        let (shape, stride) = (self.lengths(shape)?, self.lengths(stride)?);
        if shape.len() != stride.len() {
            return Err(Fault::Wrong("as many strides as dimensions"));
        }
        let tensor = TensorRef { storage, offset: offset.index().ok_or(VALUE)?, shape, stride };
        self.contain(2 * tensor.shape.len() + 4)?;
        self.out.tensors.push(tensor);
        self.push(Value::Tensor(self.out.tensors.len() - 1))
    }

    fn lengths(&self, value: Value<'a>) -> Result<Vec<usize>, Fault> {
        const EXPECTED: Fault = Fault::Wrong("a shape and strides of at most 8 numbers, none negative");
        let values = self.out.tuple(value).ok_or(VALUE)?;
        if values.len() > MOST_DIMENSIONS {
            return Err(EXPECTED);
        }
        values.iter().map(|n| n.index().ok_or(EXPECTED)).collect()
    }

    /// The attributes of a state dict (`_metadata`) mean nothing here.
    fn build(&mut self) -> Result<(), Fault> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dict(_)) => Ok(()),
            _ => Err(Fault::Wrong("attributes of a dict only")),
        }
    }
}

fn limited(n: usize) -> Result<(), Fault> {
    if n < MOST_VALUES { Ok(()) } else { Err(Fault::Limit) }
}

fn count(value: &Value<'_>) -> Result<u64, Fault> {
    match value {
        Value::Int(n) => u64::try_from(*n).map_err(|_| Fault::Wrong("no negative count")),
        _ => Err(VALUE),
    }
}

/// A little-endian number in two's complement, of at most 8 bytes.
fn sign_extended(bytes: &[u8]) -> i64 {
    let filler = if bytes.last().is_some_and(|&top| top >= 0x80) { 0xff } else { 0 };
    let mut all = [filler; 8];
    for (to, from) in all.iter_mut().zip(bytes) {
        *to = *from;
    }
    i64::from_le_bytes(all)
}
