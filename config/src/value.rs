//! One value of the file into its place, or what is wrong with it and the way out.

mod remote;
mod route;

use std::net::SocketAddr;

use toml::de::DeValue;

use crate::keys::Slot;
use crate::limits;
use crate::problems::{Fault, quote};
use crate::schema::{Choice, Device};
use crate::units::{Range, parse_size, show_size};
use remote::{flag, line, list, model_name, path, secret, url};

/// Puts `value` into `slot`; leaves the place as it is where the value will not do.
pub(crate) fn fill(slot: Slot<'_>, value: &DeValue<'_>) -> Result<(), Fault> {
    match slot {
        Slot::U32(at, range) => *at = small(value, range)?,
        Slot::MaybeU32(at, range) => *at = Some(small(value, range)?),
        Slot::U64(at, range) => *at = whole(value, range)?,
        Slot::Size(at, range) => *at = size(value, range)?,
        Slot::MaybeSize(at, range) => *at = Some(size(value, range)?),
        Slot::Id(at) => *at = id(value)?,
        Slot::Source(at) => *at = source(value)?,
        Slot::Address(at) => *at = address(value)?,
        Slot::MaybeAddress(at) if value.as_str() == Some("none") => *at = None,
        Slot::MaybeAddress(at) => *at = Some(address(value)?),
        Slot::Runner(at) => *at = choice(value)?,
        Slot::Device(at) => *at = device(value)?,
        Slot::KvType(at) => *at = choice(value)?,
        Slot::Quantise(at) => *at = choice(value)?,
        Slot::Flag(at) => *at = flag(value)?,
        Slot::Path(at) => *at = Some(path(value)?),
        Slot::Secret(at) => *at = Some(secret(value)?),
        Slot::Words(at) => *at = list(value, limits::PASS_FIELDS_MAX, id)?,
        Slot::Url(at) => *at = url(value)?,
        Slot::MaybeUrl(at) => *at = Some(url(value)?),
        Slot::Lines(at) => *at = list(value, limits::JOB_LINES_MAX, line)?,
        Slot::Models(at) => *at = list(value, limits::UPSTREAM_MODELS_MAX, model_name)?,
        Slot::Kind(at) => *at = choice(value)?,
        Slot::Discover(at) => *at = choice(value)?,
        Slot::Policy(at) => *at = choice(value)?,
        Slot::MaybeId(at) => *at = Some(id(value)?),
        Slot::Country(at) => *at = Some(route::country(value)?),
        Slot::Countries(at) => *at = route::countries(value)?,
        Slot::Sites(at) => *at = route::sites(value)?,
        Slot::SelfTest(at) => *at = choice(value)?,
        Slot::Speculation(at) => *at = choice(value)?,
        Slot::MaybeU64(at, range) => *at = Some(whole(value, range)?),
        Slot::IdOrEmpty(at) => *at = id(value)?,
        Slot::Names(at) => *at = list(value, limits::NAMES_MAX, id)?,
        Slot::Digest(at) => *at = digest(value)?,
        Slot::Date(at) => *at = Some(date(value)?),
        Slot::Role(at) => *at = choice(value)?,
        Slot::Currency(at) => *at = choice(value)?,
        Slot::StoreAway(at) => *at = Some(choice(value)?),
    }
    Ok(())
}

fn whole(value: &DeValue<'_>, range: Range) -> Result<u64, Fault> {
    let needed = || format!("a whole number of {}", range.unit);
    let Some(digits) = value.as_integer() else {
        return Err(wrong_type(
            value,
            &needed(),
            format!("{range} are allowed, without quotes"),
        ));
    };
    u64::from_str_radix(digits.as_str(), digits.radix())
        .ok()
        .filter(|number| range.holds(*number))
        .ok_or_else(|| out_of_range(&digits.to_string(), range))
}

fn small(value: &DeValue<'_>, range: Range) -> Result<u32, Fault> {
    let number = whole(value, range)?;
    u32::try_from(number).map_err(|_| out_of_range(&number.to_string(), range))
}

fn size(value: &DeValue<'_>, range: Range) -> Result<u64, Fault> {
    let Some(text) = value.as_str() else {
        return whole(value, range).map_err(|fault| sizes_help(fault, range));
    };
    let Some(bytes) = parse_size(text) else {
        let fault = Fault::new(format!("{} is not a size", quote(text)), "");
        return Err(sizes_help(fault, range));
    };
    if range.holds(bytes) {
        return Ok(bytes);
    }
    Err(sizes_help(out_of_range(&quote(text), range), range))
}

fn sizes_help(fault: Fault, range: Range) -> Fault {
    let help = format!(
        "write plain bytes or a whole number with KiB, MiB, GiB or TiB, as in \"256MiB\"; \
         {} to {} are allowed",
        show_size(range.min),
        show_size(range.max),
    );
    Fault { help, ..fault }
}

fn id(value: &DeValue<'_>) -> Result<String, Fault> {
    let help = format!(
        "a name of 1 to {} letters, digits and punctuation without spaces, \
         as in \"smollm2-135m-instruct\"",
        limits::ID_BYTES_MAX
    );
    let text = string(value, "a name in quotes", &help)?;
    if text.is_empty() {
        return Err(Fault::new("is empty", help));
    }
    if text.len() > limits::ID_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::new(
            format!("{} will not do as a name in the API", quote(text)),
            help,
        ));
    }
    Ok(text.to_owned())
}

fn source(value: &DeValue<'_>) -> Result<String, Fault> {
    let help = "a name of the catalogue, the path of a GGUF file, or hf:owner/repository/file.gguf";
    let text = string(value, "a name or path in quotes", help)?;
    if text.trim().is_empty() {
        return Err(Fault::new("is empty", help));
    }
    if text.len() > limits::SOURCE_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(Fault::new(
            format!("{} is no name or path", quote(text)),
            help,
        ));
    }
    if let Some(file) = text.strip_prefix("hf:") {
        let parts: Vec<&str> = file.split('/').collect();
        if parts.len() < 3 || parts.contains(&"") {
            return Err(Fault::new(
                format!("{} names no file of the hub", quote(text)),
                help,
            ));
        }
    }
    Ok(text.to_owned())
}

fn address(value: &DeValue<'_>) -> Result<SocketAddr, Fault> {
    let help = "an IP address and a port, as in \"127.0.0.1:8080\" or \"[::1]:8080\"; \
                names are not looked up";
    let text = string(value, "an address in quotes", help)?;
    text.parse()
        .map_err(|_| Fault::new(format!("{} is no address", quote(text)), help))
}

fn device(value: &DeValue<'_>) -> Result<Device, Fault> {
    let help = format!(
        "\"cpu\", or \"cuda:0\" to \"cuda:{}\"",
        limits::CUDA_ORDINAL_MAX
    );
    let text = string(value, "a device in quotes", &help)?;
    let ordinal = text
        .strip_prefix("cuda:")
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    match ordinal.map(str::parse) {
        _ if text == "cpu" => Ok(Device::Cpu),
        Some(Ok(ordinal)) if ordinal <= limits::CUDA_ORDINAL_MAX => Ok(Device::Cuda(ordinal)),
        _ => Err(Fault::new(format!("{} is no device", quote(text)), help)),
    }
}

fn choice<C: Choice>(value: &DeValue<'_>) -> Result<C, Fault> {
    let names: Vec<&str> = C::ALL.iter().map(|choice| choice.name()).collect();
    let known = names
        .iter()
        .map(|name| quote(name))
        .collect::<Vec<_>>()
        .join(" or ");
    let text = string(value, "a word in quotes", &known)?;
    if let Some(choice) = C::ALL.iter().find(|choice| choice.name() == text) {
        return Ok(*choice);
    }
    let help = match nearest(text, names) {
        Some(name) => format!("did you mean {}? It is {known}", quote(name)),
        None => known,
    };
    Err(Fault::new(
        format!("{} is none of its values", quote(text)),
        help,
    ))
}

fn digest(value: &DeValue<'_>) -> Result<String, Fault> {
    let help =
        "64 hexadecimal digits in quotes, as `hansa key new` prints them; never the key itself";
    let text = string(value, "a digest in quotes", help)?;
    // What is no digest may be the key: it is not repeated.
    match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(Fault::new("is no SHA-256 digest", help)),
    }
}

fn date(value: &DeValue<'_>) -> Result<i64, Fault> {
    let help = "a date as in 2027-01-01, which begins at midnight UTC, or a time with its zone as in \
                2027-01-01T12:00:00Z, without quotes";
    let DeValue::Datetime(moment) = value else {
        return Err(wrong_type(value, "a date", help));
    };
    crate::units::unix_s(moment)
        .ok_or_else(|| Fault::new("leaves open which moment is meant", help))
}

fn string<'v>(value: &'v DeValue<'_>, needed: &str, help: &str) -> Result<&'v str, Fault> {
    value
        .as_str()
        .ok_or_else(|| wrong_type(value, needed, help))
}

/// The fault of a value that is `needed` and is of another type.
pub(crate) fn wrong_type(value: &DeValue<'_>, needed: &str, help: impl Into<String>) -> Fault {
    Fault::new(format!("needs {needed}, not {}", type_name(value)), help)
}

fn out_of_range(shown: &str, range: Range) -> Fault {
    let message = format!(
        "{} is out of range",
        shown
            .chars()
            .take(limits::QUOTE_CHARS_MAX)
            .collect::<String>()
    );
    Fault::new(message, format!("{range} are allowed"))
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// What `text` was probably meant to be; nothing where no candidate is close.
pub(crate) fn nearest<'c>(
    text: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    /// One wrong or swapped letter in three; with more, a hint misleads more than it helps.
    const LIKENESS_MIN: f64 = 0.6;
    if text.len() > limits::QUOTE_CHARS_MAX {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(text, candidate),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
