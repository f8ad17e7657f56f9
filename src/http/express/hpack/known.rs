//! The static table (RFC 7541, appendix A).

use super::Known;

/// RFC 7541 appendix A; index 1 is the first.
macro_rules! known {
    ($($name:literal $value:literal,)*) => {
        [$(Known { text: concat!($name, $value).as_bytes(), name_length: $name.len() },)*]
    };
}

pub(super) static STATIC_TABLE: [Known<'static>; 61] = known! {
    ":authority" "",
    ":method" "GET",
    ":method" "POST",
    ":path" "/",
    ":path" "/index.html",
    ":scheme" "http",
    ":scheme" "https",
    ":status" "200",
    ":status" "204",
    ":status" "206",
    ":status" "304",
    ":status" "400",
    ":status" "404",
    ":status" "500",
    "accept-charset" "",
    "accept-encoding" "gzip, deflate",
    "accept-language" "",
    "accept-ranges" "",
    "accept" "",
    "access-control-allow-origin" "",
    "age" "",
    "allow" "",
    "authorization" "",
    "cache-control" "",
    "content-disposition" "",
    "content-encoding" "",
    "content-language" "",
    "content-length" "",
    "content-location" "",
    "content-range" "",
    "content-type" "",
    "cookie" "",
    "date" "",
    "etag" "",
    "expect" "",
    "expires" "",
    "from" "",
    "host" "",
    "if-match" "",
    "if-modified-since" "",
    "if-none-match" "",
    "if-range" "",
    "if-unmodified-since" "",
    "last-modified" "",
    "link" "",
    "location" "",
    "max-forwards" "",
    "proxy-authenticate" "",
    "proxy-authorization" "",
    "range" "",
    "referer" "",
    "refresh" "",
    "retry-after" "",
    "server" "",
    "set-cookie" "",
    "strict-transport-security" "",
    "transfer-encoding" "",
    "user-agent" "",
    "vary" "",
    "via" "",
    "www-authenticate" "",
};

/// The static table's index of a name, the first one if there are more.
pub fn name_index(name: &[u8]) -> Option<u8> {
    let candidates = NAMES_BY_LENGTH.get(name.len())?.iter().take_while(|index| **index != 0);
    candidates.copied().find(|index| &STATIC_TABLE[usize::from(*index) - 1].text[..name.len()] == name)
}

const NAME_LENGTH_MAX: usize = 27;
const NAMES_OF_A_LENGTH_MAX: usize = 8;

/// The static table's names by their lengths: indexes, then zeros.
static NAMES_BY_LENGTH: [[u8; NAMES_OF_A_LENGTH_MAX]; NAME_LENGTH_MAX + 1] = names_by_length();

const fn names_by_length() -> [[u8; NAMES_OF_A_LENGTH_MAX]; NAME_LENGTH_MAX + 1] {
    let mut names = [[0; NAMES_OF_A_LENGTH_MAX]; NAME_LENGTH_MAX + 1];
    let mut index = 1;
    while index <= STATIC_TABLE.len() {
        // Fields of one name stand side by side.
        if index == 1 || !same_name(&STATIC_TABLE[index - 1], &STATIC_TABLE[index - 2]) {
            let row = &mut names[STATIC_TABLE[index - 1].name_length];
            let mut free = 0;
            while row[free] != 0 {
                free += 1;
            }
            row[free] = index as u8;
        }
        index += 1;
    }
    names
}

const fn same_name(one: &Known<'_>, other: &Known<'_>) -> bool {
    let mut at = 0;
    while at < one.name_length && at < other.name_length && one.text[at] == other.text[at] {
        at += 1;
    }
    at == one.name_length && at == other.name_length
}
