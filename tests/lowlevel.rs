//! The decoder as a caller's own search sees it: the bits of the calls above it, and errors for what it cannot take.

use tiny_t5::{Dtype, Load, T5};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// The embedded model with keys and values in f32, and in half precision.
fn models() -> [T5; 2] {
    [Dtype::Auto, Dtype::Int8].map(|dtype| T5::embedded(&Load { dtype, ..Load::default() }).unwrap())
}

#[test]
fn pushes_of_any_cut_give_the_bits_of_logits() {
    models().iter().for_each(pushes_of_any_cut_are_the_same);
}

fn pushes_of_any_cut_are_the_same(t5: &T5) {
    let target: Vec<u32> = (0..150).map(|i| 3 + i * 7 % 40).collect();
    let expected = bits(&t5.logits("photosynthesis", &target).unwrap().values);
    let encoding = t5.encode("photosynthesis").unwrap();
    let ids: Vec<u32> = [t5.config().decoder_start_token_id].into_iter().chain(target).take(150).collect();
    for cut in [1, 7, 64, 150] {
        let mut decoder = t5.decoder(&encoding).unwrap();
        let mut found = Vec::new();
        for ids in ids.chunks(cut) {
            decoder.push(ids).unwrap();
            assert_eq!(decoder.hidden().len(), ids.len());
            assert!(decoder.hidden().all(|row| row.len() == t5.config().d_model));
            found.extend(bits(&decoder.logits().unwrap().values));
        }
        assert!(found == expected, "pushes of {cut}");
        // Back to every place of a panel of keys, over what stands there.
        for len in [33, 32, 31, 17, 16, 1] {
            decoder.truncate(len);
            decoder.push(&ids[len..len + 20]).unwrap();
            let row = expected.len() / ids.len();
            let from_there = &expected[len * row..(len + 20) * row];
            assert!(bits(&decoder.logits().unwrap().values) == from_there, "again from {len}, pushes of {cut}");
        }
    }
}

/// Back to an earlier place, and from one place two ways; other calls of the model between.
#[test]
fn truncated_and_cloned_decoders_go_on_as_new_ones() {
    models().map(|t5| t5.with_threads(1)).iter().for_each(truncated_and_cloned_go_on);
}

fn truncated_and_cloned_go_on(t5: &T5) {
    let start = t5.config().decoder_start_token_id;
    let last = |ids: &[u32]| {
        let mut decoder = t5.decoder(&t5.encode("hello").unwrap()).unwrap();
        decoder.push(ids).unwrap();
        bits(decoder.hidden().last().unwrap())
    };
    let mut decoder = t5.decoder(&t5.encode("hello").unwrap()).unwrap();
    assert!(decoder.is_empty() && decoder.logits().unwrap().values.is_empty());
    decoder.push(&[start, 5, 6]).unwrap();
    t5.generate("world", &Default::default()).unwrap();
    let mut other = decoder.clone();
    decoder.push(&[7]).unwrap();
    other.push(&[8, 9]).unwrap();
    assert_eq!(bits(decoder.hidden().last().unwrap()), last(&[start, 5, 6, 7]));
    assert_eq!(bits(other.hidden().last().unwrap()), last(&[start, 5, 6, 8, 9]));
    other.truncate(2);
    other.push(&[10]).unwrap();
    assert_eq!((other.len(), bits(other.hidden().last().unwrap())), (3, last(&[start, 5, 10])));
    other.truncate(0);
    other.push(&[start]).unwrap();
    assert_eq!((other.len(), bits(other.hidden().last().unwrap())), (1, last(&[start])));
}

#[test]
fn what_a_decoder_cannot_take_is_an_error_and_changes_nothing() {
    let t5 = T5::embedded(&Load::default()).unwrap();
    let mut encoding = t5.encode("hello").unwrap();
    let mut decoder = t5.decoder(&encoding).unwrap();
    decoder.push(&[t5.config().decoder_start_token_id]).unwrap();
    let hidden = bits(decoder.hidden().last().unwrap());
    assert!(decoder.push(&[]).unwrap_err().to_string().contains("an empty list of ids"));
    let past = t5.config().vocab_size as u32;
    assert!(decoder.push(&[5, past]).unwrap_err().to_string().contains(&format!("id {past}")));
    assert_eq!((decoder.len(), bits(decoder.hidden().last().unwrap())), (1, hidden));
    encoding.hidden.pop();
    assert!(t5.decoder(&encoding).unwrap_err().to_string().contains("encoding"));
}
