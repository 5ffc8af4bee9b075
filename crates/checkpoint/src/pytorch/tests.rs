//! Attacks on the zip, the pickle machine and the older form; a file is built from parts and one part lies.

use super::*;
use crate::Dtype;

const FILE: &str = "pytorch_model.bin";

// Builders.

/// One entry of a zip, with what each of its headers says.
#[derive(Clone)]
struct Entry {
    name: Vec<u8>,
    data: Vec<u8>,
    method: u16,
    flags: u16,
    /// Sizes in the directory, packed and unpacked; `None`: the truth.
    sizes: Option<(u32, u32)>,
    /// Sizes in the local header.
    local_sizes: Option<(u32, u32)>,
    local_name: Option<Vec<u8>>,
    extra: Vec<u8>,
    /// Where the directory says that the local header is.
    offset: Option<u32>,
}

fn entry(name: &str, data: &[u8]) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        data: data.to_vec(),
        method: 0,
        flags: 0,
        sizes: None,
        local_sizes: None,
        local_name: None,
        extra: Vec::new(),
        offset: None,
    }
}

fn shorts(out: &mut Vec<u8>, numbers: &[u16]) {
    numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
}

fn words(out: &mut Vec<u8>, numbers: &[u32]) {
    numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
}

fn zip_of(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for e in entries {
        let (at, size) = (out.len() as u32, e.data.len() as u32);
        let local_name = e.local_name.as_ref().unwrap_or(&e.name);
        let (packed, unpacked) = e.local_sizes.unwrap_or((size, size));
        out.extend(b"PK\x03\x04");
        shorts(&mut out, &[0, e.flags, e.method, 0, 0]);
        words(&mut out, &[0, packed, unpacked]);
        shorts(&mut out, &[local_name.len() as u16, 0]);
        out.extend(local_name);
        out.extend(&e.data);

        let (packed, unpacked) = e.sizes.unwrap_or((size, size));
        directory.extend(b"PK\x01\x02");
        shorts(&mut directory, &[0, 0, e.flags, e.method, 0, 0]);
        words(&mut directory, &[0, packed, unpacked]);
        shorts(&mut directory, &[e.name.len() as u16, e.extra.len() as u16, 0, 0, 0]);
        words(&mut directory, &[0, e.offset.unwrap_or(at)]);
        directory.extend(&e.name);
        directory.extend(&e.extra);
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06");
    shorts(&mut out, &[0, 0, entries.len() as u16, entries.len() as u16]);
    words(&mut out, &[directory.len() as u32, start]);
    shorts(&mut out, &[0]);
    out
}

fn text(text: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

fn int(n: u32) -> Vec<u8> {
    [b"J".as_slice(), &n.to_le_bytes()].concat()
}

fn tuple(numbers: &[u32]) -> Vec<u8> {
    let inner: Vec<u8> = numbers.iter().flat_map(|&n| int(n)).collect();
    [b"(".as_slice(), &inner, b"t"].concat()
}

/// The persistent id of storage "0" and the call that makes a tensor of it; `view` is None for the older form.
fn tensor(class: &str, elements: u32, offset: u32, shape: &[u32], stride: &[u32], view: &[u8]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
        &text("storage"),
        format!("ctorch\n{class}\n").as_bytes(),
        &text("0"),
        &text("cpu"),
        &int(elements),
        view,
        b"tQ",
        &int(offset),
        &tuple(shape),
        &tuple(stride),
        b"\x89)tR",
    ]
    .concat()
}

/// `{name: value}`, pickled.
fn dict(name: &str, value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}".as_slice(), &text(name), value, b"s."].concat()
}

/// A zip with the pickle `pickle` and 24 bytes, 0 to 23, as storage "0".
fn archive(pickle: &[u8]) -> Vec<u8> {
    let storage: Vec<u8> = (0..24).collect();
    zip_of(&[entry("m/data.pkl", pickle), entry("m/byteorder", b"little"), entry("m/data/0", &storage)])
}

fn load(bytes: &[u8]) -> Result<Vec<Found>, Error> {
    read(FILE, &Bytes::Owned(Box::new(bytes.to_vec())))
}

fn message(bytes: &[u8]) -> String {
    let message = load(bytes).expect_err("hostile file was read").to_string();
    assert!(message.starts_with(FILE) && !message.contains('\n'), "{message}");
    message
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let message = message(bytes);
    assert!(message.contains(expected), "{message}");
}

fn good_tensor() -> Vec<u8> {
    tensor("FloatStorage", 6, 0, &[2, 3], &[3, 1], b"")
}

// What must load.

#[test]
fn read_contiguous_view_stays_in_the_file() {
    let bytes = archive(&dict("x", &tensor("HalfStorage", 12, 2, &[2, 5], &[5, 1], b"")));
    let found = load(&bytes).unwrap();
    let Data::InFile(range) = &found[0].data else { panic!("copied") };
    assert_eq!(bytes[range.clone()], (4..24).collect::<Vec<u8>>());
    assert_eq!((found[0].shape.as_slice(), &found[0].dtype), ([2, 5].as_slice(), &Stored::Float(Dtype::F16)));
}

#[test]
fn read_strided_view_is_copied_in_row_major_order() {
    let found = load(&archive(&dict("x", &tensor("HalfStorage", 12, 0, &[3, 2], &[1, 6], b"")))).unwrap();
    let Data::Owned(bytes) = &found[0].data else { panic!("not copied") };
    assert_eq!(**bytes, [0, 1, 12, 13, 2, 3, 14, 15, 4, 5, 16, 17]);
}

/// torch marks views whose signs are changed, or that are conjugates, in a dict behind the other arguments.
#[test]
fn read_tensor_with_changed_signs_is_refused() {
    let plain = good_tensor();
    let with = |more: &[u8]| [&plain[..plain.len() - 2], more, b"tR"].concat();
    let neg = [b"}".as_slice(), &text("neg"), b"\x88s"].concat();
    refused(&archive(&dict("x", &with(&neg))), "without metadata");
    for more in [b"N".as_slice(), b"}"] {
        assert_eq!(load(&archive(&dict("x", &with(more)))).unwrap().len(), 1);
    }
}

#[test]
fn read_protocol_4_with_metadata_and_wrapping_loads() {
    // OrderedDict([("state_dict", {"x": Parameter(tensor)})]) with attributes, as Python 3.4 and later writes it.
    let short = |t: &str| [&[0x8c, t.len() as u8], t.as_bytes()].concat();
    let pickle = [
        b"\x80\x04\x95\0\0\0\0\0\0\0\0".as_slice(),
        &short("collections"),
        &short("OrderedDict"),
        b"\x93\x94)R(",
        &short("epoch"),
        &int(3),
        &short("state_dict"),
        b"}(",
        &short("x"),
        b"ctorch._utils\n_rebuild_parameter\n(",
        &good_tensor(),
        b"\x88h\0)RtRuu}",
        &short("_metadata"),
        b"}sb.",
    ]
    .concat();
    let found = load(&archive(&pickle)).unwrap();
    assert_eq!((found.len(), found[0].name.as_str()), (1, "x"));
}

#[test]
fn read_ordered_dict_of_python_2_loads() {
    let pickle = [b"\x80\x02ccollections\nOrderedDict\n(](](U\x01x".as_slice(), &good_tensor(), b"eetR."].concat();
    assert_eq!(load(&archive(&pickle)).unwrap()[0].name, "x");
}

#[test]
fn read_integers_are_listed_and_doubles_are_unsupported() {
    let longs = load(&archive(&dict("position_ids", &tensor("LongStorage", 3, 0, &[3], &[1], b"")))).unwrap();
    assert_eq!(longs[0].dtype, Stored::Integer("I64".into()));
    let doubles = load(&archive(&dict("x", &tensor("DoubleStorage", 3, 0, &[3], &[1], b"")))).unwrap();
    assert_eq!(doubles[0].dtype, Stored::Unsupported("F64".into()));
}

#[test]
fn read_storages_of_16_bits_and_of_integers_keep_their_type() {
    let integer = |name: &str| Stored::Integer(name.into());
    let cases = [
        ("HalfStorage", 2, Stored::Float(Dtype::F16)),
        ("BFloat16Storage", 2, Stored::Float(Dtype::BF16)),
        ("IntStorage", 4, integer("I32")),
        ("ShortStorage", 2, integer("I16")),
        ("CharStorage", 1, integer("I8")),
        ("ByteStorage", 1, integer("U8")),
        ("BoolStorage", 1, integer("BOOL")),
    ];
    for (storage, size, expected) in cases {
        let n = 24 / size;
        let found = load(&archive(&dict("x", &tensor(storage, n, 0, &[n], &[1], b"")))).unwrap();
        assert_eq!(found[0].dtype, expected, "{storage}");
    }
}

// The zip.

#[test]
fn attack_zip_compressed_or_encrypted_record_is_refused() {
    let good = [entry("m/data.pkl", &dict("x", &good_tensor())), entry("m/data/0", &[0; 24])];
    assert!(load(&zip_of(&good)).is_ok());
    let with = |change: fn(&mut Entry)| {
        let mut entries = good.clone();
        change(&mut entries[1]);
        zip_of(&entries)
    };
    refused(&with(|e| e.method = 8), "compressed (method 8)");
    refused(&with(|e| e.flags = 1), "encrypted");
    refused(&with(|e| e.flags = 1 << 13), "encrypted");
    refused(&with(|e| e.sizes = Some((10, 24))), "24 bytes as 10");
    refused(&with(|e| e.sizes = Some((28, 28))), "without its local header");
    refused(&with(|e| e.local_sizes = Some((4, 4))), "without its local header");
    refused(&with(|e| e.local_name = Some(b"m/data/1".to_vec())), "without its local header");
    refused(&with(|e| e.offset = Some(u32::MAX - 1)), "without its local header");
    refused(
        &with(|e| (e.flags, e.local_sizes, e.sizes) = (8, Some((0, 0)), Some((1 << 20, 1 << 20)))),
        "within the file",
    );
    refused(&with(|e| e.name = b"m/data.pkl".to_vec()), "there twice");
    refused(&with(|e| e.name = vec![0xff; 4]), "cut off");
    refused(&with(|e| (e.sizes, e.local_sizes) = (Some((20, 20)), Some((20, 20)))), "20 bytes, expected 6 elements");
}

#[test]
fn attack_zip_overlapping_records_are_refused() {
    // The second record's local header lies inside the first one's data.
    let inner = zip_of(&[entry("m/data/0", &[0; 24])]);
    let start = 30 + "m/data.pkl".len() as u32;
    let mut second = entry("m/data/0", &[0; 24]);
    second.offset = Some(start);
    refused(&zip_of(&[entry("m/data.pkl", &inner), second]), "overlapping");
}

#[test]
fn attack_zip64_fields_that_lie_are_refused() {
    let with = |extra: &[u8], sizes| {
        let mut storage = entry("m/data/0", &[0; 24]);
        (storage.extra, storage.sizes) = (extra.to_vec(), Some(sizes));
        zip_of(&[entry("m/data.pkl", &dict("x", &good_tensor())), storage])
    };
    let saturated = (u32::MAX, u32::MAX);
    let field = |n: u64| [&[1, 0, 16, 0], n.to_le_bytes().as_slice(), &n.to_le_bytes()].concat();
    assert!(load(&with(&field(24), saturated)).is_ok());
    refused(&with(&[], saturated), "cut off");
    refused(&with(&field(24)[..12], saturated), "cut off");
    refused(&with(&field(u64::MAX), saturated), "without its local header");
}

#[test]
fn attack_zip64_end_that_lies_is_refused() {
    let zip = archive(&dict("x", &good_tensor()));
    let (body, end) = zip.split_at(zip.len() - 22);
    let with = |count: u64, size: u64, offset: u64, at: u64| {
        let mut out = body.to_vec();
        out.extend(b"PK\x06\x06");
        out.extend(44u64.to_le_bytes());
        shorts(&mut out, &[0, 0]);
        words(&mut out, &[0, 0]);
        [count, count, size, offset].iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(b"PK\x06\x07");
        words(&mut out, &[0]);
        out.extend(at.to_le_bytes());
        words(&mut out, &[1]);
        out.extend(end);
        out
    };
    let (size, offset) = (&end[12..16], &end[16..20]);
    let number = |bytes: &[u8]| u64::from(u32::from_le_bytes(bytes.try_into().unwrap()));
    let (size, offset, at) = (number(size), number(offset), body.len() as u64);
    assert!(load(&with(3, size, offset, at)).is_ok());
    refused(&with(u64::MAX, size, offset, at), "the number of zip records");
    refused(&with(3, u64::MAX, offset, at), "outside the file");
    refused(&with(3, size, u64::MAX, at), "outside the file");
    refused(&with(3, size, offset, u64::MAX), "damaged");
    refused(&with(4, size, offset, at), "cut off");
}

#[test]
fn attack_zip_without_pickle_or_storage_or_of_big_endian_is_refused() {
    let pickle = dict("x", &good_tensor());
    refused(&zip_of(&[]), "without a record */data.pkl");
    refused(&zip_of(&[entry("m/data.pkl", &pickle)]), "storage 0 is absent");
    let big = [entry("m/data.pkl", &pickle), entry("m/byteorder", b"big"), entry("m/data/0", &[0; 24])];
    refused(&zip_of(&big), "the byte order is big, expected little");
}

// The pickle machine.

#[test]
fn attack_pickle_that_names_a_function_is_refused_by_name() {
    for (call, name) in [
        ("cposix\nsystem\n(U\x04echotR.", "posix.system"),
        ("cos\nsystem\n(U\x04echotR.", "os.system"),
        ("c__builtin__\neval\n.", "__builtin__.eval"),
        ("U\x08builtinsU\x04exec\u{93}.", "builtins.exec"),
        ("ctorch\nload\n.", "torch.load"),
        ("ctorch\nEvilStorage\n.", "torch.EvilStorage"),
        ("ctorch._utils\n_rebuild_qtensor\n.", "torch._utils._rebuild_qtensor"),
    ] {
        let code: Vec<u8> = call.chars().map(|c| c as u8).collect(); // one byte a character
        let bytes = archive(&[b"\x80\x02".as_slice(), &code].concat());
        assert!(matches!(load(&bytes), Err(Error::Refused { .. })), "{name}");
        refused(&bytes, &format!("the Python name `{name}`"));
    }
}

#[test]
fn attack_pickle_opcodes_that_make_objects_are_unknown() {
    for op in [b"i".as_slice(), b"o", b"\x81", b"\x82\x01", b"\x83\x01\x00", b"\x92", b"P1\n", b"I1\n", b"\xff"] {
        refused(&archive(&[b"\x80\x02}".as_slice(), op, b"."].concat()), "expected an opcode that torch.save uses");
    }
    refused(&archive(b"\x80\x05}."), "protocol 2, 3 or 4");
}

#[test]
fn attack_pickle_memo_far_away_or_unset_is_refused() {
    refused(&archive(b"\x80\x02}r\xff\xff\xff\xff."), "the values in the pickle");
    refused(&archive(b"\x80\x02h\x07."), "a place of the memo that was set");
    refused(&archive(b"\x80\x02q\x00."), "more on the stack");
}

#[test]
fn attack_pickle_memo_bomb_stops_at_the_limit() {
    // Each round doubles: [] [[] []] [[..] [..]] ... and as many values flat on the stack.
    let doubling = [b"\x80\x02)q\0".as_slice(), &b"h\0h\0\x86q\0".repeat(100_000), b"."].concat();
    refused(&archive(&doubling), "the values in the pickle");
    let flat = [b"\x80\x02)q\0".as_slice(), &b"h\0".repeat(1_000_000), b"."].concat();
    refused(&archive(&flat), "the values in the pickle");
    let marks = [b"\x80\x02".as_slice(), &b"(".repeat(1_000_000), b"."].concat();
    refused(&archive(&marks), "the values in the pickle");
    // One list of a thousand pairs, made into a dict over and over.
    let pairs = [b"](".as_slice(), &b"]\x88a\x88a".repeat(1000), b"e"].concat();
    let copies = b"0h\x01(h\x02tR".repeat(100_000);
    let start = b"\x80\x02ccollections\nOrderedDict\nq\x01";
    let bomb = [start.as_slice(), &pairs, b"q\x02", &copies, b"."].concat();
    refused(&archive(&bomb), "the values in the pickle");
}

#[test]
fn attack_pickle_long_text_is_not_copied_for_each_use() {
    let long = text(&"x".repeat(1 << 20));
    let items = b"h\0h\x01".repeat(30_000);
    let pickle = [b"\x80\x02".as_slice(), &long, b"q\x000", &good_tensor(), b"q\x010}(", &items, b"u."].concat();
    refused(&archive(&pickle), "without tensors");
}

#[test]
fn attack_pickle_deep_nesting_does_not_recurse() {
    let deep = [b"\x80\x02)".as_slice(), &b"\x85".repeat(60_000), b"."].concat();
    refused(&archive(&deep), "without tensors");
    let own = b"\x80\x02]q\0h\0a."; // a list in itself
    refused(&archive(own), "without tensors");
    let dict_of_itself = [b"\x80\x02}q\0".as_slice(), &text("state_dict"), b"h\0s."].concat();
    refused(&archive(&dict_of_itself), "without tensors");
}

#[test]
fn attack_pickle_stack_and_lengths_that_lie_are_refused() {
    for (pickle, expected) in [
        (b"\x80\x02".as_slice(), "is its end"),
        (b"", "is its end"),
        (b"\x80\x02.", "more on the stack"),
        (b"\x80\x02t.", "a MARK before it"),
        (b"\x80\x02\x87.", "more on the stack"),
        (b"\x80\x02]](\x86.", "more on the stack"),
        (b"\x80\x02}(\x88u.", "a value for each key"),
        (b"\x80\x02)(\x88e.", "a value of another kind"),
        (b"\x80\x02X\xff\xff\xff\xff.", "more bytes"),
        (b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "more bytes"),
        (b"\x80\x02X\x01\0\0\0\xff.", "text in UTF-8"),
        (b"\x80\x02\x8a\x09abc", "more bytes"),
        (b"\x80\x02ctorch", "a Python name of one line"),
        (b"\x80\x02)Q.", "the persistent id of a storage"),
        (b"\x80\x02))R.", "a call of OrderedDict"),
        (b"\x80\x02)}b.", "attributes of a dict only"),
    ] {
        refused(&archive(pickle), expected);
    }
}

// Views.

#[test]
fn attack_view_outside_its_storage_is_refused() {
    for (offset, shape, stride) in [
        (1, &[2u32, 3][..], &[3u32, 1][..]),
        (0, &[7], &[1]),
        (0, &[2, 3], &[4, 1]),
        (0, &[0x7fff_ffff, 0x7fff_ffff, 0x7fff_ffff], &[1, 1, 1]),
        (0, &[2], &[0x7fff_ffff]),
        (0x7fff_ffff, &[1], &[1]),
    ] {
        let pickle = dict("x", &tensor("FloatStorage", 6, offset, shape, stride, b""));
        refused(&archive(&pickle), "the view x is shape");
    }
    refused(&archive(&dict("x", &tensor("FloatStorage", 6, 0, &[6], &[1, 1], b""))), "as many strides as dimensions");
    refused(&archive(&dict("x", &tensor("FloatStorage", 6, 0, &[1; 9], &[1; 9], b""))), "at most 8 numbers");
    refused(&archive(&dict("x", &tensor("FloatStorage", 6, 0, &[u32::MAX], &[1], b""))), "none negative");
}

#[test]
fn attack_stride_0_bomb_cannot_exceed_the_file() {
    let bomb = tensor("FloatStorage", 6, 0, &[1 << 20, 1 << 9], &[0, 0], b"");
    refused(&archive(&dict("x", &bomb)), "no more bytes in all views than the file has");
    // Many small ones, each of another shape.
    let views = (1..200u32).flat_map(|n| {
        let name = text(&format!("x{n}"));
        [name, tensor("FloatStorage", 6, 0, &[n, 2], &[0, 1], b"")].concat()
    });
    let pickle = [b"\x80\x02}(".to_vec(), views.collect(), b"u.".to_vec()].concat();
    refused(&archive(&pickle), "no more bytes in all views than the file has");
}

// The older form.

/// The four pickles before the storages.
fn legacy(object: &[u8], keys: &[u8], storages: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    [magic.as_slice(), b"\x80\x02M\xe9\x03.", b"\x80\x02}.", object, keys, storages].concat()
}

fn storage(elements: u64) -> Vec<u8> {
    [elements.to_le_bytes().as_slice(), &(0..24).collect::<Vec<u8>>()].concat()
}

#[test]
fn attack_legacy_counts_and_keys_that_lie_are_refused() {
    let object = dict("x", &tensor("FloatStorage", 6, 0, &[2, 3], &[3, 1], b"N"));
    let keys = b"\x80\x02]U\x010a.";
    let found = load(&legacy(&object, keys, &storage(6))).unwrap();
    assert!(matches!(&found[0].data, Data::InFile(range) if range.len() == 24));

    refused(&legacy(&object, keys, &storage(u64::MAX)), "18446744073709551615 elements, expected 6");
    refused(&legacy(&object, keys, &storage(5)), "5 elements, expected 6");
    refused(&legacy(&object, keys, &storage(6)[..31]), "expected within");
    refused(&legacy(&object, keys, &[0; 7]), "cut off");
    refused(&legacy(&object, b"\x80\x02].", &storage(6)), "storage 0 is absent");
    refused(&legacy(&object, b"\x80\x02]U\x017a.", &storage(6)), "not used by any tensor");
    refused(&legacy(&object, b"\x80\x02}.", &storage(6)), "the list of storages");
    let twice = [storage(6), storage(6)].concat();
    refused(&legacy(&object, b"\x80\x02](U\x010U\x010e.", &twice), "listed twice");
    refused(&legacy(&object, b"", b""), "the pickle at byte 0 is its end");
    let huge = dict("x", &tensor("FloatStorage", 0x7fff_ffff, 0, &[2, 3], &[3, 1], b"N"));
    refused(&legacy(&huge, keys, &storage(0x7fff_ffff)), "expected within");
}

#[test]
fn attack_legacy_partial_storage_outside_its_root_is_refused() {
    let keys = b"\x80\x02]U\x010a.";
    let view = |first, length| [b"(".as_slice(), &text("v"), &int(first), &int(length), b"t"].concat();
    let object = |first, length| dict("x", &tensor("FloatStorage", 6, 0, &[2], &[1], &view(first, length)));
    let found = load(&legacy(&object(4, 2), keys, &storage(6))).unwrap();
    assert!(matches!(&found[0].data, Data::InFile(range) if range.len() == 8));
    refused(&legacy(&object(5, 2), keys, &storage(6)), "a view of 2 elements from 5");
    refused(&legacy(&object(4, 1), keys, &storage(6)), "the view x is shape");
    refused(&legacy(&object(u32::MAX, 2), keys, &storage(6)), "no negative count");
}

#[test]
fn attack_legacy_of_a_big_endian_machine_is_refused() {
    let zip = archive(b"");
    refused(&zip, "the pickle at byte 0");
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let big = [magic.as_slice(), b"\x80\x02M\xe9\x03.", &dict("little_endian", b"\x89")].concat();
    refused(&big, "the byte order is big");
    refused(&[magic.as_slice(), b"\x80\x02M\xe8\x03."].concat(), "the protocol is Int(1000), expected 1001");
}

#[test]
fn read_file_of_another_kind_says_so() {
    for bytes in [b"".as_slice(), b"GGUF", b"\x80\x02}.", b"PK", b"PK\x03\x04"] {
        assert!(!message(bytes).is_empty());
    }
}
