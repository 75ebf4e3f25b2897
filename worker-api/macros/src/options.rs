//! The attribute's arguments: the directive, then options.

use proc_macro2::Span;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Ident, Lit, LitInt, LitStr, Result, Token};

const KNOWN: &str = "version = \"1.0.0\", idempotent, max_concurrent = 4, max_payload = \"64MiB\"";
const MAX_VERSION_BYTES: usize = 64;

/// What stands in the parentheses of `#[worker(...)]`.
pub(crate) struct Options {
    pub(crate) directive: LitStr,
    pub(crate) version: Option<LitStr>,
    pub(crate) idempotent: bool,
    pub(crate) max_concurrent: Option<u32>,
    pub(crate) max_payload_bytes: Option<u64>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self {
            directive: directive(input)?,
            version: None,
            idempotent: false,
            max_concurrent: None,
            max_payload_bytes: None,
        };
        let mut seen: Vec<Ident> = Vec::new();
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let name: Ident = input.parse()?;
            if seen.contains(&name) {
                return Err(Error::new(name.span(), format!("option `{name}` is given twice")));
            }
            options.set(&name, input)?;
            seen.push(name);
        }
        Ok(options)
    }
}

impl Options {
    fn set(&mut self, name: &Ident, input: ParseStream<'_>) -> Result<()> {
        match name.to_string().as_str() {
            "version" => self.version = Some(version(value(name, input)?)?),
            "idempotent" => {
                if input.peek(Token![=]) {
                    return Err(Error::new(
                        name.span(),
                        "`idempotent` takes no value: write it, or leave it out",
                    ));
                }
                self.idempotent = true;
            }
            "max_concurrent" => self.max_concurrent = Some(max_concurrent(value(name, input)?)?),
            "max_payload" => self.max_payload_bytes = Some(max_payload(value(name, input)?)?),
            _ => {
                return Err(Error::new(
                    name.span(),
                    format!("unknown option `{name}`; known are {KNOWN}"),
                ));
            }
        }
        Ok(())
    }
}

fn directive(input: ParseStream<'_>) -> Result<LitStr> {
    const HELP: &str = "#[worker] starts with the directive: #[worker(\"module:function\")]";
    if input.is_empty() {
        return Err(Error::new(Span::call_site(), HELP));
    }
    input.parse().map_err(|e| Error::new(e.span(), HELP))
}

fn value(name: &Ident, input: ParseStream<'_>) -> Result<Lit> {
    if !input.peek(Token![=]) {
        return Err(Error::new(
            name.span(),
            format!("`{name}` needs a value; the options are {KNOWN}"),
        ));
    }
    input.parse::<Token![=]>()?;
    input.parse().map_err(|e| {
        Error::new(
            e.span(),
            format!("`{name}` needs a literal; the options are {KNOWN}"),
        )
    })
}

fn version(value: Lit) -> Result<LitStr> {
    if let Lit::Str(text) = &value {
        let version = text.value();
        if (1..=MAX_VERSION_BYTES).contains(&version.len()) && version.chars().all(|c| c.is_ascii_graphic()) {
            return Ok(text.clone());
        }
    }
    Err(Error::new(
        value.span(),
        format!(
            "version is a text of 1 to {MAX_VERSION_BYTES} printable ASCII characters, such as \"1.0.0\""
        ),
    ))
}

fn max_concurrent(value: Lit) -> Result<u32> {
    let units = match &value {
        Lit::Int(number) => number.base10_parse().unwrap_or(0),
        _ => 0,
    };
    if units > 0 {
        return Ok(units);
    }
    Err(Error::new(
        value.span(),
        "max_concurrent is a number of units from 1, such as 4",
    ))
}

fn max_payload(value: Lit) -> Result<u64> {
    let bytes = match &value {
        Lit::Int(number) => plain_bytes(number),
        Lit::Str(text) => size(&text.value()),
        _ => None,
    };
    bytes.ok_or_else(|| {
        let help = "max_payload is a number of bytes, or a whole number with B, kB, MB, GB, KiB, MiB or GiB";
        Error::new(value.span(), format!("{help}, such as \"64MiB\""))
    })
}

fn plain_bytes(number: &LitInt) -> Option<u64> {
    number.base10_parse().ok()
}

/// Reads `64MiB`, `64 MiB`, `1000`.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_with_a_unit() {
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("2 GB"), Some(2_000_000_000));
        assert_eq!(size("0"), Some(0));
        for bad in ["", "MiB", "1.5MiB", "-1", "1 parsec", "18446744073709551615KiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn options_may_end_in_a_comma() {
        let options: Options = syn::parse_str(r#""a:b", idempotent, max_payload = 5,"#).unwrap();
        assert!(options.idempotent);
        assert_eq!(options.max_payload_bytes, Some(5));
    }
}
