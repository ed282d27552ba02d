//! The result that the benchmark's plugin gives, which the floor's launcher must know too: it keeps no journal, and its
//! DEL and CHECK have to hand the plugins as much as Braid's do.

use std::fmt::Write as _;

/// The result of an attachment on `ifname`, at least `size` bytes long.
pub(crate) fn answer(ifname: &str, size: usize) -> String {
    let octet = ifname.bytes().fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    let mut text = format!(
        concat!(
            r#"{{"cniVersion":"1.0.0","interfaces":[{{"name":"{ifname}","mac":"02:00:00:00:00:{octet:02x}"}}],"#,
            r#""ips":[{{"address":"10.1.{octet}.2/24","gateway":"10.1.{octet}.1","interface":0}}],"#,
            r#""routes":[{{"dst":"10.2.{octet}.0/24","gw":"10.1.{octet}.1"}}],"dns":{{"#
        ),
        ifname = ifname,
        octet = octet
    );
    if size > text.len() {
        text.push_str(r#""search":[""#);
        for number in 0.. {
            if text.len() >= size {
                break;
            }
            let _ = write!(text, r#"host-{number:06}.{ifname}.example.org",""#);
        }
        text.push_str(r#"example.org"]"#);
    }
    text.push_str("}}");
    text
}

/// The number after the first `key` in `text`.
pub(crate) fn number_after(text: &[u8], key: &str) -> Option<usize> {
    let at = text.windows(key.len()).position(|window| window == key.as_bytes())?;
    let digits: String =
        text[at + key.len()..].iter().take_while(|byte| byte.is_ascii_digit()).map(|b| *b as char).collect();
    digits.parse().ok()
}
