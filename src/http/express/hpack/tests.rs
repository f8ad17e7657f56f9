use super::huffman::{CODE_LENGTHS, END, decode_huffman};
use super::known::STATIC_TABLE;
use super::*;

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|digit| *digit != b' ').collect();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(octet).collect()
}

fn lines(fields: &Fields) -> Vec<String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut fields = Fields::new(1 << 16);
    decoder.decode(block, &mut fields)?;
    Ok(lines(&fields))
}

/// A whole block on a new connection.
fn read_alone(block: &[u8]) -> Result<Vec<String>, Malformed> {
    read(&mut Decoder::new(4096), block)
}

/// Blocks of one connection in hex, each with its lines and the table's size behind it.
fn check(table_size: usize, blocks: &[(&str, &[&str], usize)]) {
    let mut decoder = Decoder::new(4096);
    let mut update = Vec::new();
    put_integer(&mut update, 0x1f, table_size);
    update[0] |= 0x20;
    assert_eq!(read(&mut decoder, &update), Ok(vec![]));
    for (block, expected, size) in blocks {
        assert_eq!(read(&mut decoder, &octets(block)).unwrap(), *expected);
        assert_eq!(decoder.table.size, *size, "{block}");
    }
}

/// The codes as RFC 7541 appendix B builds them, from the lengths alone.
fn codes() -> Vec<(u32, u32)> {
    let mut order: Vec<usize> = (0..=END).collect();
    order.sort_by_key(|symbol| (CODE_LENGTHS[*symbol], *symbol));
    let (mut codes, mut code, mut length) = (vec![(0, 0); END + 1], 0, 0);
    for symbol in order {
        code <<= u32::from(CODE_LENGTHS[symbol]) - length;
        length = u32::from(CODE_LENGTHS[symbol]);
        codes[symbol] = (code, length);
        code += 1;
    }
    codes
}

/// Codes in a row, padded.
fn huffman_of(codes: impl IntoIterator<Item = (u32, u32)>) -> Vec<u8> {
    let mut bits = String::new();
    for (code, length) in codes {
        bits += &format!("{code:0width$b}", width = length as usize);
    }
    bits += &"1".repeat(bits.len().next_multiple_of(8) - bits.len());
    bits.as_bytes().chunks(8).map(|octet| octet.iter().fold(0, |sum, bit| (sum << 1) | (bit - b'0'))).collect()
}

fn decoded(huffman: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = b"before".to_vec();
    decode_huffman(huffman, &mut out).map(|()| out.split_off(6))
}

#[test]
fn representations_are_read_as_in_appendix_c_2() {
    let literal = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    check(4096, &[(literal, &["custom-key: custom-header"], 55)]);
    check(4096, &[("040c 2f73 616d 706c 652f 7061 7468", &[":path: /sample/path"], 0)]);
    check(4096, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &["password: secret"], 0)]);
    check(4096, &[("82", &[":method: GET"], 0)]);
}

const FIRST_REQUEST: &[&str] = &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
const SECOND_REQUEST: &[&str] =
    &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com", "cache-control: no-cache"];
const THIRD_REQUEST: &[&str] = &[
    ":method: GET",
    ":scheme: https",
    ":path: /index.html",
    ":authority: www.example.com",
    "custom-key: custom-value",
];

#[test]
fn requests_are_read_as_in_appendix_c_3() {
    let third = "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65";
    check(
        4096,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", FIRST_REQUEST, 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND_REQUEST, 110),
            (third, THIRD_REQUEST, 164),
        ],
    );
}

#[test]
fn requests_in_huffman_are_read_as_in_appendix_c_4() {
    check(
        4096,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST_REQUEST, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", SECOND_REQUEST, 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", THIRD_REQUEST, 164),
        ],
    );
}

const FIRST_RESPONSE: &[&str] = &[
    ":status: 302",
    "cache-control: private",
    "date: Mon, 21 Oct 2013 20:13:21 GMT",
    "location: https://www.example.com",
];
const SECOND_RESPONSE: &[&str] = &[
    ":status: 307",
    "cache-control: private",
    "date: Mon, 21 Oct 2013 20:13:21 GMT",
    "location: https://www.example.com",
];
const THIRD_RESPONSE: &[&str] = &[
    ":status: 200",
    "cache-control: private",
    "date: Mon, 21 Oct 2013 20:13:22 GMT",
    "location: https://www.example.com",
    "content-encoding: gzip",
    "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
];

#[test]
fn responses_with_eviction_are_read_as_in_appendix_c_5() {
    let first = "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 \
                 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d";
    let third = "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a \
                 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d \
                 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31";
    let second = "4803 3330 37c1 c0bf";
    check(256, &[(first, FIRST_RESPONSE, 222), (second, SECOND_RESPONSE, 222), (third, THIRD_RESPONSE, 215)]);
}

#[test]
fn responses_in_huffman_are_read_as_in_appendix_c_6() {
    let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d \
                 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
    let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d \
                 d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 \
                 3d50 07";
    let second = "4883 640e ffc1 c0bf";
    check(256, &[(first, FIRST_RESPONSE, 222), (second, SECOND_RESPONSE, 222), (third, THIRD_RESPONSE, 215)]);
}

#[test]
fn integers_are_read_and_written_as_in_appendix_c_1() {
    for (mask, value, hex) in [(0x1f, 10, "0a"), (0x1f, 1337, "1f9a0a"), (0xff, 42, "2a")] {
        let mut written = Vec::new();
        put_integer(&mut written, mask, value);
        assert_eq!(written, octets(hex));
        assert_eq!(Unread(&written[1..]).integer(written[0], mask), Ok(value));
    }
    for value in (0..300).chain([16_383, 16_384, 1 << 20, INTEGER_MAX as usize]) {
        for mask in [0x0f, 0x1f, 0x3f, 0x7f] {
            let mut written = Vec::new();
            put_integer(&mut written, mask, value);
            let mut unread = Unread(&written[1..]);
            assert_eq!((unread.integer(written[0], mask), unread.0.len()), (Ok(value), 0), "{value}");
        }
    }
}

#[test]
fn integers_are_bounded() {
    let integer = |hex| Unread(&octets(hex)).integer(0xff, 0x7f);
    assert_eq!(integer("8080808000"), Ok(127));
    assert_eq!(integer("81ffffff00"), Ok(INTEGER_MAX as usize));
    for bad in ["", "80", "80808080", "808080808000", "82ffffff00", "ffffffff7f", "ffffffffffffffffff7f"] {
        assert_eq!(integer(bad), Err(Malformed), "{bad}");
    }
}

#[test]
fn codes_are_those_of_appendix_b() {
    let codes = codes();
    for (symbol, code) in [
        (0, (0x1ff8, 13)),
        (10, (0x3fff_fffc, 30)),
        (22, (0x3fff_fffe, 30)),
        (b' '.into(), (0x14, 6)),
        (b'!'.into(), (0x3f8, 10)),
        (b'0'.into(), (0, 5)),
        (b'X'.into(), (0xfc, 8)),
        (b'\\'.into(), (0x7fff0, 19)),
        (b'a'.into(), (0x3, 5)),
        (b'z'.into(), (0x7b, 7)),
        (b'{'.into(), (0x7ffe, 15)),
        (128, (0xfffe6, 20)),
        (199, (0x1ff_ffec, 25)),
        (249, (0xfff_fffe, 28)),
        (255, (0x3ff_ffee, 26)),
        (END, (0x3fff_ffff, 30)),
    ] {
        assert_eq!(codes[symbol], code, "{symbol}");
    }
}

#[test]
fn every_symbol_is_read_wherever_it_stands() {
    let codes = codes();
    for symbol in 0..=255u8 {
        for before in 0..16 {
            for behind in [0, 1, 2, 7, 9] {
                let mut text = vec![b'a'; before];
                text.extend([symbol, symbol]);
                text.extend(vec![b'X'; behind]);
                let huffman = huffman_of(text.iter().map(|symbol| codes[usize::from(*symbol)]));
                assert_eq!(decoded(&huffman), Ok(text));
            }
        }
    }
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(decoded(&huffman_of(codes[..END].iter().copied())), Ok(all));
    assert_eq!(decoded(b""), Ok(vec![]));
    // All codes of the shortest length: as much as a string can hold.
    assert_eq!(decoded(&[0; 1000]), Ok(vec![b'0'; 1600]));
}

#[test]
fn wrong_padding_and_the_end_are_refused() {
    let (codes, digit) = (codes(), (0, 5));
    for digits in 0..20 {
        let with = |last| decoded(&huffman_of(std::iter::repeat_n(digit, digits).chain([last])));
        let padding = (8 - digits * 5 % 8) % 8;
        assert_eq!(with((0xff, 8)), Err(Malformed), "{} bits of padding", padding + 8);
        assert_eq!(with(codes[END]), Err(Malformed), "the end behind {digits} digits");
        if (1..5).contains(&padding) {
            assert_eq!(with((0, padding as u32)), Err(Malformed), "{padding} zeros");
            assert_eq!(with(((1 << padding) - 2, padding as u32)), Err(Malformed), "a zero at last");
        }
    }
    assert_eq!(decoded(&[0xff]), Err(Malformed));
    assert_eq!(decoded(&[0xff; 4]), Err(Malformed));
    assert_eq!(decoded(&[0xff; 100]), Err(Malformed));
    // A code cut short.
    assert_eq!(decoded(&[0xfe]), Err(Malformed));
    assert_eq!(decoded(&[0xff, 0xc0]), Err(Malformed));
}

#[test]
fn blocks_that_are_no_hpack_are_refused() {
    for (bad, why) in [
        ("80", "index 0"),
        ("be", "an index beyond the tables"),
        ("ff ffffff7f", "an index far beyond the tables"),
        ("7e 0161", "a name beyond the tables, remembered"),
        ("0f2f 0161", "a name beyond the tables"),
        ("ff", "an index cut short"),
        ("40", "no name"),
        ("41", "no value"),
        ("00 0161", "no value behind a name"),
        ("41 0261", "a value longer than the block"),
        ("41 7f80", "a length cut short"),
        ("00 0561", "a name longer than the block"),
        ("41 8100", "wrong padding"),
        ("41 81ff", "nothing but padding, and too much"),
        ("3fe21f", "a table larger than allowed"),
        ("3f", "a table's size cut short"),
        ("82 20", "a size behind a field"),
        ("41 0161 3f e11f", "a size behind a literal"),
    ] {
        let mut decoder = Decoder::new(4096);
        let mut fields = Fields::new(1000);
        fields.push(STATIC_TABLE[0]);
        assert_eq!(decoder.decode(&octets(bad), &mut fields), Err(Malformed), "{why}");
        assert_eq!(fields.iter().count(), 0);
        assert_eq!(read_alone(&[&octets("82"), &octets(bad)[..]].concat()), Err(Malformed), "{why}");
    }
    assert_eq!(read_alone(&[]), Ok(vec![]));
    assert_eq!(read_alone(&octets("3fe11f 20 3fe11f 82")), Ok(vec![":method: GET".to_owned()]));
}

#[test]
fn an_entry_may_take_its_name_from_one_that_it_evicts() {
    let mut decoder = Decoder::new(4096);
    // 100 octets hold one of these entries: 4 + 40 + 32.
    let value = |octet: u8| [&[40], &[octet; 40][..]].concat();
    let first = [&octets("3f45 40 04 6e616d65"), &value(b'1')[..]].concat();
    let again = [&octets("7e"), &value(b'2')[..], &octets("be")].concat();
    assert_eq!(read(&mut decoder, &first).unwrap(), [format!("name: {}", "1".repeat(40))]);
    let second = format!("name: {}", "2".repeat(40));
    assert_eq!(read(&mut decoder, &again).unwrap(), [second.clone(), second]);
    assert_eq!((decoder.table.size, decoder.table.entries.len()), (76, 1));
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(4096);
    read(&mut decoder, &octets("41 0161 41 0162")).unwrap();
    assert_eq!(decoder.table.size, 2 * 43);
    // 10 + 4055 + 32 is one octet more than fits.
    for (length, size) in [(4055, 0), (4054, 4096)] {
        let mut block = octets("41 7f");
        put_integer(&mut block, 0, length - 127);
        block.remove(2);
        block.extend(vec![b'v'; length]);
        assert_eq!(read(&mut decoder, &block).unwrap(), [format!(":authority: {}", "v".repeat(length))]);
        assert_eq!(decoder.table.size, size);
    }
    assert_eq!(read(&mut decoder, &octets("be")).unwrap().len(), 1);
    assert_eq!(read(&mut decoder, &octets("20 be")), Err(Malformed));
}

#[test]
fn a_list_that_is_too_large_is_kept_in_part_and_read_to_its_end() {
    let mut decoder = Decoder::new(4096);
    let mut fields = Fields::new(100);
    // Twice 42 octets, then one that passes the bound by its overhead, then more.
    decoder.decode(&octets("82 82"), &mut fields).unwrap();
    assert_eq!((fields.iter().count(), fields.is_too_large()), (2, false));
    decoder.decode(&octets("82 82 82 82 40 0161 0162"), &mut fields).unwrap();
    assert_eq!((fields.iter().count(), fields.is_too_large()), (3, true));
    // The table has it even so, and the next head begins anew.
    decoder.decode(&octets("be"), &mut fields).unwrap();
    assert_eq!((lines(&fields), fields.is_too_large()), (vec!["a: b".to_owned()], false));
    // A field that is larger than a whole list.
    let large = [&octets("82 04 65")[..], &[b'v'; 101], &octets("be 01 0163")].concat();
    decoder.decode(&large, &mut fields).unwrap();
    assert_eq!((lines(&fields), fields.is_too_large()), (vec![":method: GET".to_owned()], true));
    // Errors behind the bound are errors.
    assert_eq!(decoder.decode(&octets("82 82 82 82 82 80"), &mut fields), Err(Malformed));
    assert_eq!((fields.iter().count(), fields.is_too_large()), (0, false));
}

#[test]
fn a_huffman_bomb_leaves_nothing_behind() {
    let mut decoder = Decoder::new(4096);
    let mut fields = Fields::new(1000);
    let mut bomb = octets("41 ff");
    put_integer(&mut bomb, 0, 60_000 - 127);
    bomb.remove(2);
    bomb.extend([0; 60_000]);
    decoder.decode(&bomb, &mut fields).unwrap();
    assert_eq!((fields.iter().count(), fields.is_too_large()), (0, true));
    assert!(fields.bytes.capacity() <= BYTES_KEPT);
    // Long entries that one octet each repeats.
    let block = [&octets("41 7f5c")[..], &[b'v'; 219], &[0xbe; 60_000]].concat();
    decoder.decode(&block, &mut fields).unwrap();
    assert_eq!((fields.iter().count(), fields.is_too_large()), (4, true));
    assert!(fields.bytes.capacity() <= BYTES_KEPT && fields.spans.capacity() <= SPANS_KEPT);
}

#[test]
fn what_is_written_can_be_read_and_changes_no_table() {
    let mut block = Vec::new();
    put_indexed(&mut block, 8);
    put_value(&mut block, name_index(b"content-length").unwrap(), b"12");
    put_value(&mut block, name_index(b"www-authenticate").unwrap(), &[b'v'; 300]);
    put_value(&mut block, name_index(b":status").unwrap(), b"410");
    put_field(&mut block, b"x-request-id", b"r-1");
    put_field(&mut block, &[b'n'; 127], b"");
    let mut decoder = Decoder::new(4096);
    let expected = [
        ":status: 200".to_owned(),
        "content-length: 12".to_owned(),
        format!("www-authenticate: {}", "v".repeat(300)),
        ":status: 410".to_owned(),
        "x-request-id: r-1".to_owned(),
        format!("{}: ", "n".repeat(127)),
    ];
    assert_eq!(read(&mut decoder, &block).unwrap(), expected);
    assert_eq!((decoder.table.size, decoder.table.entries.len()), (0, 0));
}

#[test]
fn names_of_the_static_table_are_found() {
    for (at, known) in STATIC_TABLE.iter().enumerate() {
        let name = &known.text[..known.name_length];
        let first = STATIC_TABLE.iter().position(|other| &other.text[..other.name_length] == name);
        assert_eq!(name_index(name).map(usize::from), first.map(|at| at + 1), "{}", at + 1);
    }
    for (name, index) in [("content-type", 31), ("date", 33), ("retry-after", 53), ("allow", 22), (":status", 8)] {
        assert_eq!(name_index(name.as_bytes()), Some(index));
    }
    for unknown in ["", "x", "x-request-id", "Date", "content-typo", &"a".repeat(1000)] {
        assert_eq!(name_index(unknown.as_bytes()), None);
    }
}

/// Chance that a seed repeats.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }

    fn text(&mut self) -> Vec<u8> {
        let length = if self.below(50) == 0 { self.below(600) } else { self.below(24) };
        let any = self.below(8) == 0;
        (0..length).map(|_| if any { self.next() as u8 } else { b"0/ab:-xyXZ?{"[self.below(12)] }).collect()
    }
}

type Said = Vec<(Vec<u8>, Vec<u8>)>;

/// A client with a table, in the plainest way.
struct Client {
    codes: Vec<(u32, u32)>,
    table: Said,
    table_max: usize,
}

impl Client {
    fn new() -> Self {
        Client { codes: codes(), table: Vec::new(), table_max: 4096 }
    }

    fn evict(&mut self) {
        let size = |table: &[(Vec<u8>, Vec<u8>)]| -> usize {
            table.iter().map(|(name, value)| name.len() + value.len() + FIELD_OVERHEAD).sum()
        };
        while size(&self.table) > self.table_max {
            self.table.pop();
        }
    }

    fn known(&self, index: usize) -> (Vec<u8>, Vec<u8>) {
        match STATIC_TABLE.get(index - 1) {
            Some(known) => {
                let (name, value) = known.text.split_at(known.name_length);
                (name.to_vec(), value.to_vec())
            }
            None => self.table[index - 1 - STATIC_TABLE.len()].clone(),
        }
    }

    fn put(&self, chance: &mut Chance, block: &mut Vec<u8>, text: &[u8]) {
        let huffman = chance.below(2) == 0;
        let coded = huffman_of(text.iter().map(|symbol| self.codes[usize::from(*symbol)]));
        let start = block.len();
        put_string(block, if huffman { &coded } else { text });
        block[start] |= if huffman { 0x80 } else { 0 };
    }

    /// A block by chance, and what it says.
    fn block(&mut self, chance: &mut Chance) -> (Vec<u8>, Said) {
        let (mut block, mut said) = (Vec::new(), Vec::new());
        let number = |block: &mut Vec<u8>, bits: u8, mask: u8, value: usize| {
            let start = block.len();
            put_integer(block, mask, value);
            block[start] |= bits;
        };
        if chance.below(10) == 0 {
            for _ in 0..=chance.below(2) {
                self.table_max = [0, 64, 200, 1000, 4096][chance.below(5)];
                number(&mut block, 0x20, 0x1f, self.table_max);
                self.evict();
            }
        }
        for _ in 0..chance.below(9) {
            let index = 1 + chance.below(STATIC_TABLE.len() + self.table.len());
            if chance.below(2) == 0 {
                number(&mut block, 0x80, 0x7f, index);
                said.push(self.known(index));
                continue;
            }
            let (bits, mask) = [(0x40, 0x3f), (0x40, 0x3f), (0, 0x0f), (0x10, 0x0f)][chance.below(4)];
            let name = if chance.below(3) == 0 {
                number(&mut block, bits, mask, 0);
                let name = chance.text();
                self.put(chance, &mut block, &name);
                name
            } else {
                number(&mut block, bits, mask, index);
                self.known(index).0
            };
            let value = chance.text();
            self.put(chance, &mut block, &value);
            if bits == 0x40 {
                self.table.insert(0, (name.clone(), value.clone()));
                self.evict();
            }
            said.push((name, value));
        }
        (block, said)
    }
}

fn assert_bounds(decoder: &Decoder, fields: &Fields) {
    let table = &decoder.table;
    let size: usize = table.entries.iter().map(|entry| entry.length + FIELD_OVERHEAD).sum();
    let alive: usize = table.entries.iter().map(|entry| entry.length).sum();
    assert!(size == table.size && size <= table.size_max && table.size_max <= 4096);
    assert!(table.bytes.len() == table.dead + alive && table.bytes.len() <= 2 * 4096);
    assert!(fields.bytes.len() <= 2 * fields.size_max && fields.spans.len() <= fields.size_max / 32 + 1);
    assert!(fields.bytes.capacity() <= BYTES_KEPT.max(fields.bytes.len()));
    assert!(fields.spans.capacity() <= SPANS_KEPT.max(fields.spans.len()));
    assert!(fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() == fields.bytes.len());
}

#[test]
fn any_client_is_understood_and_any_bytes_are_survived() {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let (mut client, mut honest, mut hostile) = (Client::new(), Decoder::new(4096), Decoder::new(4096));
    let (mut fields, mut few) = (Fields::new(1 << 16), Fields::new(400));
    let (mut refused, mut too_large) = (0, 0);
    for round in 0..100_000 {
        if round % 200 == 0 {
            (client, honest) = (Client::new(), Decoder::new(4096));
        }
        let (block, said) = client.block(&mut chance);
        honest.decode(&block, &mut fields).unwrap();
        assert!(fields.iter().eq(said.iter().map(|(name, value)| (&name[..], &value[..]))), "round {round}");
        assert_bounds(&honest, &fields);

        let mut mutated = block.clone();
        for _ in 0..=chance.below(3) {
            match chance.below(3) {
                _ if mutated.is_empty() => mutated.push(chance.next() as u8),
                0 => mutated.truncate(chance.below(mutated.len())),
                1 => mutated.insert(chance.below(mutated.len()), chance.next() as u8),
                _ => {
                    let at = chance.below(mutated.len());
                    mutated[at] ^= 1 << chance.below(8);
                }
            }
        }
        let noise: Vec<u8> = (0..chance.below(64)).map(|_| chance.next() as u8).collect();
        for block in [block, mutated, noise] {
            if hostile.decode(&block, &mut few).is_err() {
                refused += 1;
                assert_eq!(few.iter().count(), 0);
                if chance.below(8) == 0 {
                    hostile = Decoder::new(4096);
                }
            }
            too_large += usize::from(few.is_too_large());
            assert_bounds(&hostile, &few);
        }
    }
    // The hostile blocks reach both ends.
    assert!((50_000..250_000).contains(&refused) && too_large > 5_000, "{refused} {too_large}");
}
