//! The new values of `update`, in the form of the command line.

use serde_json::value::RawValue;

use crate::config::selection::PortMapping;
use crate::plan::update::{BandwidthUpdate, LimitUpdate};

/// A list of mappings: clap would treat a `Vec` as several arguments.
#[derive(Debug, Clone)]
pub(super) struct Mappings(pub(super) Vec<PortMapping>);

/// A plugin's type, and which one of that type.
#[derive(Debug, Clone)]
pub(super) struct PluginName {
    pub(super) plugin_type: String,
    pub(super) number: Option<usize>,
}

/// Reads `ingress=50M,egress=none,ingressBurst=5M`, or `none`.
pub(super) fn bandwidth(text: &str) -> Result<BandwidthUpdate, String> {
    if text == "none" {
        let unlimited = Some(LimitUpdate::Unlimited);
        return Ok(BandwidthUpdate { ingress: unlimited, egress: unlimited });
    }
    let mut rates = [None; 2];
    let mut bursts = [None; 2];
    for item in text.split(',') {
        let expected =
            "expected ingress=RATE, egress=RATE, ingressBurst=BITS or egressBurst=BITS, separated by commas, or none";
        let (key, value) = item.split_once('=').ok_or_else(|| format!("{item:?} is not a limit: {expected}"))?;
        let (at, is_rate) = match key.trim() {
            "ingress" | "ingressRate" => (0, true),
            "egress" | "egressRate" => (1, true),
            "ingressBurst" => (0, false),
            "egressBurst" => (1, false),
            _ => return Err(format!("{key:?} is not a limit: {expected}")),
        };
        let slot = if is_rate { &mut rates[at] } else { &mut bursts[at] };
        let value = match value.trim() {
            "none" if is_rate => 0,
            value => bits(value)?,
        };
        if slot.replace(value).is_some() {
            return Err(format!("{key:?} is given twice"));
        }
    }
    let direction = |at: usize, name: &str| match (rates[at], bursts[at]) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(format!("{name}Burst needs {name}, its rate")),
        (Some(0), None) => Ok(Some(LimitUpdate::Unlimited)),
        (Some(0), Some(_)) => Err(format!("{name} has no limit, and so no burst")),
        (Some(rate), burst) => Ok(Some(LimitUpdate::Limited { rate, burst })),
    };
    Ok(BandwidthUpdate { ingress: direction(0, "ingress")?, egress: direction(1, "egress")? })
}

/// Reads a number of bits: `50M`, `1.5G`, `20000`.
fn bits(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is not a number of bits above 0, such as 500k, 50M or 1.5G");
    let unit = text.chars().last().ok_or_else(expected)?;
    let (digits, unit) = match unit {
        'k' | 'K' => (&text[..text.len() - 1], 1_000),
        'M' => (&text[..text.len() - 1], 1_000_000),
        'G' => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1_u64),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || whole.is_empty() || (digits.contains('.') && fraction.is_empty()) {
        return Err(expected());
    }
    let part = |digits: &str| digits.parse::<u64>().map_err(|_| expected());
    let scale = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| expected())?);
    let of_fraction =
        if fraction.is_empty() { 0 } else { u128::from(part(fraction)?) * u128::from(unit) / u128::from(scale) };
    let all = u128::from(part(whole)?) * u128::from(unit) + of_fraction;
    u64::try_from(all).ok().filter(|bits| *bits > 0).ok_or_else(expected)
}

/// Reads `8080:80/tcp,127.0.0.1:53:53/udp`, a JSON list, or `none`.
pub(super) fn port_mappings(text: &str) -> Result<Mappings, String> {
    if text == "none" {
        return Ok(Mappings(Vec::new()));
    }
    // In text form, an IPv6 address is in brackets.
    let is_json = |rest: &str| rest.trim_start().starts_with(['{', ']']);
    if text.trim_start().strip_prefix('[').is_some_and(is_json) {
        return PortMapping::parse_list(text).map(Mappings).map_err(|error| error.to_string());
    }
    let lists = text.split(',').map(mappings_of).collect::<Result<Vec<_>, _>>()?;
    Ok(Mappings(lists.into_iter().flatten().collect()))
}

/// Reads `[HOSTIP:]HOSTPORT:CONTAINERPORT[/PROTOCOL]`, where both ports may be ranges of one length, such as `9000-9002`; an
/// IPv6 address is in brackets.
fn mappings_of(text: &str) -> Result<Vec<PortMapping>, String> {
    let expected =
        || format!("{text:?} is not a mapping such as 8080:80/tcp, 127.0.0.1:53:53/udp or 9000-9002:90-92/tcp");
    let (ports, protocol) = text.trim().split_once('/').unwrap_or((text.trim(), "tcp"));
    let (rest, container_port) = ports.rsplit_once(':').ok_or_else(expected)?;
    let (host_ip, host_port) = rest.rsplit_once(':').unwrap_or(("", rest));
    let host_ip = host_ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(host_ip);
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(expected);
    let ports = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Ok::<_, String>(port(first)?..=port(last)?)
    };
    if !["tcp", "udp", "sctp"].contains(&protocol)
        || !(host_ip.is_empty() || host_ip.parse::<std::net::IpAddr>().is_ok())
    {
        return Err(expected());
    }
    let (of_host, of_container) = (ports(host_port)?, ports(container_port)?);
    if of_host.is_empty() || of_host.len() != of_container.len() {
        return Err(expected());
    }
    let mapping = |(host_port, container_port)| PortMapping {
        host_port,
        container_port,
        protocol: protocol.to_owned(),
        host_ip: host_ip.to_owned(),
    };
    Ok(of_host.zip(of_container).map(mapping).collect())
}

/// A key of a plugin's configuration, to be set or to be left out.
#[derive(Debug, Clone)]
pub(super) enum Key {
    Set(String, Box<RawValue>),
    Unset(String),
}

/// Reads one more `KEY=JSON` of `--set`, or one more `KEY` of `--unset`.
pub(super) fn key(text: &str) -> Result<Key, String> {
    if text.contains('=') {
        key_and_value(text).map(|(key, value)| Key::Set(key, value))
    } else {
        Ok(Key::Unset(text.to_owned()))
    }
}

pub(super) fn plugin(text: &str) -> Result<PluginName, String> {
    let (plugin_type, number) = match text.split_once('#') {
        None => (text, None),
        Some((plugin_type, number)) => {
            let number = number.parse().ok().filter(|number| *number > 0);
            (plugin_type, Some(number.ok_or_else(|| format!("{text:?} names no plugin, such as tuning or tuning#2"))?))
        }
    };
    crate::cni::validate::plugin_type(plugin_type).map_err(|error| error.to_string())?;
    Ok(PluginName { plugin_type: plugin_type.to_owned(), number })
}

pub(super) fn key_and_value(text: &str) -> Result<(String, Box<RawValue>), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("expected KEY=JSON")?;
    let value = RawValue::from_string(value.to_owned())
        .map_err(|_| format!("the value of {key:?} is not JSON; a string needs quotes: --set '{key}=\"{value}\"'"))?;
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_text() {
        let limited = |rate, burst| Some(LimitUpdate::Limited { rate, burst });
        let both = bandwidth("ingress=50M,egress=1.5G,egressBurst=20000").unwrap();
        assert_eq!(both.ingress, limited(50_000_000, None));
        assert_eq!(both.egress, limited(1_500_000_000, Some(20_000)));
        assert_eq!(
            bandwidth("egress=none").unwrap(),
            BandwidthUpdate { ingress: None, egress: Some(LimitUpdate::Unlimited) }
        );
        assert_eq!(bandwidth("none").unwrap().ingress, Some(LimitUpdate::Unlimited));
        for wrong in [
            "",
            "50M",
            "ingress",
            "ingress=",
            "ingress=0",
            "ingress=-1",
            "ingress=1m",
            "ingress=1.M",
            "ingress=1e3",
            "up=1M",
            "ingress=1M,ingress=2M",
            "ingressBurst=1M",
            "ingress=none,ingressBurst=1",
            "ingress=99999999999G",
            "ingress=0.0001",
        ] {
            assert!(bandwidth(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mappings_as_text() {
        let one = |text: &str| {
            let one = mappings_of(text)?.remove(0);
            Ok::<_, String>((one.host_ip, one.host_port, one.container_port, one.protocol))
        };
        let expected =
            |ip: &str, host, container, protocol: &str| Ok((ip.to_owned(), host, container, protocol.to_owned()));
        assert_eq!(one("8080:80"), expected("", 8080, 80, "tcp"));
        assert_eq!(one("127.0.0.1:53:5353/udp"), expected("127.0.0.1", 53, 5353, "udp"));
        assert_eq!(one("[fd00::1]:53:5353/sctp"), expected("fd00::1", 53, 5353, "sctp"));
        for wrong in [
            "",
            "80",
            "0:80",
            "80:0",
            "80:80/icmp",
            "65536:80",
            "host:80:80",
            ":80:80:80",
            "80-82:80",
            "80-82:80-81",
            "82-80:82-80",
            "0-1:1-2",
            "80-:80-",
            "65535-65536:1-2",
        ] {
            assert!(one(wrong).is_err(), "{wrong}");
        }
        let range = port_mappings("[::1]:9000-9002:90-92/udp,80:80").unwrap().0;
        let ports: Vec<_> = range.iter().map(|one| (one.host_ip.as_str(), one.host_port, one.container_port)).collect();
        assert_eq!(ports, [("::1", 9000, 90), ("::1", 9001, 91), ("::1", 9002, 92), ("", 80, 80)]);
        assert_eq!(port_mappings("1-65535:1-65535").unwrap().0.len(), 65535);
        assert_eq!(port_mappings("none").unwrap().0.len(), 0);
        assert_eq!(port_mappings("80:80,81:81").unwrap().0.len(), 2);
        assert_eq!(port_mappings("[::1]:80:80,[fd00::1]:81:81/udp").unwrap().0[1].host_ip, "fd00::1");
        assert_eq!(port_mappings("[ ]").unwrap().0.len(), 0);
        assert_eq!(port_mappings(r#"[{"hostPort":80,"containerPort":81}]"#).unwrap().0[0].container_port, 81);
        assert!(port_mappings(r#"[{"hostPort":0,"containerPort":81}]"#).is_err());
    }

    #[test]
    fn plugins_and_keys_as_text() {
        assert_eq!(plugin("tuning#2").unwrap().number, Some(2));
        for wrong in ["tuning#0", "tuning#x", "../tuning", ""] {
            assert!(plugin(wrong).is_err(), "{wrong}");
        }
        assert_eq!(key_and_value(r#"a={"b=c":1}"#).unwrap().1.get(), r#"{"b=c":1}"#);
        assert!(key_and_value("backend=iptables").unwrap_err().contains("needs quotes"));
        assert!(key_and_value("=1").is_err());
    }
}
