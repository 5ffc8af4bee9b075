use super::*;

/// A file of this header and `data` zero bytes.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn message(bytes: &[u8]) -> String {
    let message = read("model.safetensors", bytes).expect_err("hostile file was read").to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn read_two_tensors_gives_their_places() {
    let header = r#"{"__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        "a": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}}"#;
    let found = read("f", &file(header, 12)).unwrap();
    let start = 8 + header.len();
    let place = |f: &Found| match &f.data {
        Data::InFile(range) => (f.name.clone(), range.start - start, range.len()),
        Data::Owned(_) => panic!("copied"),
    };
    assert_eq!(found.iter().map(place).collect::<Vec<_>>(), [("a".into(), 0, 4), ("b".into(), 4, 8)]);
    assert_eq!(found[0].dtype, Stored::Float(Dtype::BF16));
}

#[test]
fn attack_header_of_2_to_the_63_is_too_large() {
    let mut bytes = (1u64 << 63).to_le_bytes().to_vec();
    bytes.extend(b"{}");
    assert!(message(&bytes).contains("9223372036854775808"));
    bytes[..8].copy_from_slice(&[0xff; 8]);
    assert!(message(&bytes).contains("18446744073709551615"));
}

#[test]
fn attack_header_longer_than_the_file_is_cut_off() {
    let mut bytes = file("{}", 0);
    bytes[0] = 3;
    assert!(message(&bytes).contains("the header's length is 3, expected at most 2"));
    assert!(message(&[0; 7]).contains("its size in bytes is 7"));
    assert!(message(&[]).contains("its size in bytes is 0"));
}

#[test]
fn attack_shape_product_that_overflows_is_named() {
    for shape in ["[4294967296, 4294967296]", "[9223372036854775807, 3, 0]", "[18446744073709551615]"] {
        let header = format!(r#"{{"x": {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, 0]}}}}"#);
        assert!(message(&file(&header, 0)).contains("the size of x"), "{shape}");
    }
}

#[test]
fn attack_offsets_whose_sum_overflows_are_an_error() {
    // Eight tensors of 2^61 - 1 bytes end 8 bytes below 2^64.
    let size = (1u64 << 61) - 1;
    let tensor = |i: u64| {
        let (from, to) = (i * size, (i + 1) * size);
        format!(r#""t{i}": {{"dtype": "U8", "shape": [{size}], "data_offsets": [{from}, {to}]}}"#)
    };
    let header = format!("{{{}}}", (0..8).map(tensor).collect::<Vec<_>>().join(","));
    assert!(message(&file(&header, 0)).contains("number of bytes after the header"));
}

#[test]
fn attack_overlap_hole_and_reversal_name_the_tensor() {
    for (a, b) in [("[0, 4]", "[2, 6]"), ("[0, 4]", "[0, 4]"), ("[0, 4]", "[6, 10]"), ("[0, 4]", "[8, 4]")] {
        let header = format!(
            r#"{{"a": {{"dtype": "F32", "shape": [1], "data_offsets": {a}}},
                 "b": {{"dtype": "F32", "shape": [1], "data_offsets": {b}}}}}"#
        );
        assert!(message(&file(&header, 8)).contains("the place of "), "{a} {b}");
    }
}

#[test]
fn attack_size_that_differs_from_the_shape_is_an_error() {
    let header = r#"{"a": {"dtype": "F16", "shape": [3], "data_offsets": [0, 8]}}"#;
    assert!(message(&file(header, 8)).contains("the place of a is 0 to 8, expected 6 bytes from 0 on"));
}

#[test]
fn attack_bytes_too_few_or_too_many_are_an_error() {
    let header = r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#;
    assert!(message(&file(header, 7)).contains("is 7, expected 8"));
    assert!(message(&file(header, 9)).contains("is 9, expected 8"));
    assert!(read("f", &file(header, 8)).is_ok());
}

#[test]
fn attack_json_of_another_form_is_an_error() {
    let deep = "[".repeat(1 << 20);
    let twice =
        r#"{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#;
    for header in ["", "[]", "{", "{}{}", r#"{"a": 1}"#, r#"{"a\nb": []}"#, "\u{feff}{}", &deep, twice] {
        assert!(message(&file(header, 1)).len() < 500);
    }
    let negative = r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}"#;
    assert!(message(&file(negative, 4)).contains("not valid JSON"));
    let mut not_utf8 = file("{\"aa\": 1}", 0);
    not_utf8[10] = 0xff;
    message(&not_utf8);
}

#[test]
fn attack_shape_of_many_dimensions_is_named() {
    let header = format!(r#"{{"x": {{"dtype": "U8", "shape": [{}1], "data_offsets": [0, 1]}}}}"#, "1,".repeat(100_000));
    assert!(message(&file(&header, 1)).contains("the number of dimensions of x is 100001, expected at most 8"));
}

#[test]
fn attack_widest_header_is_refused_before_it_is_parsed() {
    let header = format!("{{\"a\": {{\"shape\": [{}1]}}}}", "1,".repeat(3 << 20));
    assert!(message(&file(&header, 0)).contains("the header's length in bytes"));
}
