//! Offers as RFC 7692 §7 shows them, and as it forbids them.

use super::*;

fn answer(lines: &[&str]) -> Result<Option<String>, &'static str> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
        headers.append(SEC_WEBSOCKET_EXTENSIONS, line);
    }
    let answer = negotiate(&headers, true).map_err(|refusal| refusal.why)?;
    assert!(matches!(negotiate(&headers, false), Ok(None)));
    Ok(answer.map(|value| value.to_str().unwrap().to_owned()))
}

#[test]
fn offers_that_can_be_met_are_met() {
    let cases: &[(&[&str], &str)] = &[
        (&["permessage-deflate"], ""),
        (&["permessage-deflate; client_max_window_bits"], ""),
        (&["permessage-deflate; client_max_window_bits=8"], ""),
        (&["permessage-deflate; client_max_window_bits=15"], ""),
        (&["permessage-deflate;client_no_context_takeover"], ""),
        (
            &["permessage-deflate ; server_no_context_takeover\t;  client_no_context_takeover"],
            "",
        ),
        (
            &["permessage-deflate; server_max_window_bits=15"],
            "; server_max_window_bits=15",
        ),
        (
            &["permessage-deflate; server_max_window_bits=12"],
            "; server_max_window_bits=12",
        ),
        (
            &["permessage-deflate; server_max_window_bits=\"13\""],
            "; server_max_window_bits=13",
        ),
        (
            &["permessage-deflate; server_max_window_bits=\"1\\4\""],
            "; server_max_window_bits=14",
        ),
        // In order of preference: what cannot be met gives way to what follows.
        (
            &["permessage-deflate; server_max_window_bits=10, permessage-deflate"],
            "",
        ),
        (
            &[
                "permessage-deflate; server_max_window_bits=8; client_max_window_bits, permessage-deflate; server_max_window_bits=14",
            ],
            "; server_max_window_bits=14",
        ),
        (
            &[
                "permessage-deflate; unknown, permessage-deflate; server_max_window_bits=12, permessage-deflate",
            ],
            "; server_max_window_bits=12",
        ),
        (
            &["x-webkit-deflate-frame, permessage-bzip2; level=9, permessage-deflate"],
            "",
        ),
        (&["foo; bar=\"a\"", "permessage-deflate"], ""),
        (
            &[
                "permessage-deflate; server_max_window_bits=14",
                "permessage-deflate",
            ],
            "; server_max_window_bits=14",
        ),
        (&[" , ,permessage-deflate,, "], ""),
    ];
    for (lines, with) in cases {
        let met = format!("{AGREED}{with}");
        assert_eq!(answer(lines), Ok(Some(met)), "{lines:?}");
    }
}

#[test]
fn offers_that_cannot_be_met_are_declined() {
    let cases: &[&[&str]] = &[
        &[],
        &[""],
        &["permessage-bzip2"],
        &["Permessage-deflate2"],
        &["permessage-deflate; unknown"],
        &["permessage-deflate; server_no_context_takeover; server_no_context_takeover"],
        &["permessage-deflate; client_no_context_takeover; x; client_no_context_takeover"],
        &["permessage-deflate; client_max_window_bits; client_max_window_bits=10"],
        &["permessage-deflate; server_max_window_bits=12; server_max_window_bits=12"],
        &["permessage-deflate; server_no_context_takeover=1"],
        &["permessage-deflate; client_no_context_takeover=\"true\""],
        &["permessage-deflate; server_max_window_bits"],
        &["permessage-deflate; server_max_window_bits=7"],
        &["permessage-deflate; server_max_window_bits=16"],
        &["permessage-deflate; server_max_window_bits=012"],
        &["permessage-deflate; server_max_window_bits=+12"],
        &["permessage-deflate; server_max_window_bits=x"],
        &["permessage-deflate; server_max_window_bits=11"],
        &["permessage-deflate; client_max_window_bits=7"],
        &["permessage-deflate; client_max_window_bits=16"],
        &["permessage-deflate; client_max_window_bits=08"],
        &["permessage-deflate; client_max_window_bits=999"],
    ];
    for lines in cases {
        assert_eq!(answer(lines), Ok(None), "{lines:?}");
    }
}

#[test]
fn what_is_no_list_of_extensions_is_refused() {
    let cases = [
        "permessage-deflate;",
        "permessage-deflate; =1",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=\"12",
        "permessage-deflate; server_max_window_bits=\"\"",
        "permessage-deflate; server_max_window_bits=\"1 2\"",
        "permessage-deflate; server_max_window_bits=\"12\\",
        "permessage-deflate permessage-deflate",
        "; server_no_context_takeover",
        "permessage/deflate",
        "perméssage-deflate",
        "permessage-deflate, foo=bar",
    ];
    for line in cases {
        assert_eq!(answer(&[line]), Err("extensions"), "{line}");
        assert_eq!(
            answer(&["permessage-deflate", line]),
            Err("extensions"),
            "{line}"
        );
    }
}
