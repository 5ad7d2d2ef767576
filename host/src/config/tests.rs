//! The configuration file as a specification: what parses to what, and every mistake with its place, words and mend.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::{Loaded, Mistakes, PluginUse, load, parse, schema};
use crate::model::{Config, Destination, SecretOrigin, StateLocation};

/// Where the files of these tests count from.
const DIRECTORY: &str = "/etc/evertoken";

fn read(text: &str) -> Result<Loaded, Mistakes> {
    parse(text, "f.yaml", Path::new(DIRECTORY)).map_err(|refused| refused.mistakes)
}

fn load_refused(path: &Path) -> Mistakes {
    load(path).unwrap_err().mistakes
}

fn config(text: &str) -> Config {
    read(text)
        .unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
        .config
}

/// The mistakes as lines without the file's name.
fn mistakes(text: &str) -> Vec<String> {
    match read(text) {
        Ok(_) => Vec::new(),
        Err(mistakes) => lines(&mistakes),
    }
}

fn lines(mistakes: &Mistakes) -> Vec<String> {
    mistakes
        .iter()
        .map(|mistake| mistake.to_string().replace("f.yaml:", ""))
        .collect()
}

/// A job with one part of it written by the test.
fn job_with(source: &str, rest: &str) -> String {
    format!(
        "jobs:\n- name: a\n  source: {{plugin: dummy{source}}}\n  outputs: [{{file: {{path: /t/a}}}}]\n{rest}"
    )
}

#[test]
fn the_design_page_s_example_is_understood() {
    let config = config(
        r#"
state: {dir: /var/lib/evertoken, key: {file: /run/secrets/state}}
control: {socket: /run/evertoken/warehouse.sock}
serve: {address: 0.0.0.0:8080}              # /livez /readyz /metrics, nothing else; absent: none
limits: {concurrency: 64, per_origin: {in_flight: 16}}
plugins:                                    # only for plugins that are not built in
  acme-idp: {path: ./acme_idp.wasm, sha256: 9f2cdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdead}
  netrc: {path: ./netrc.wasm, sha256: 9f2cdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeae}
jobs:
- name: warehouse
  source:
    plugin: oauth2
    config: {grant: client_credentials, token_url: https://idp.example.org/token, client_id: svc, scope: [read]}
    secrets:
      client_secret: {file: /run/secrets/warehouse}
      refresh_token: {file: /run/secrets/rt, rotating: true}
    allow: [https://login.example.org]      # beyond the endpoints in config
    reveal: []                              # secrets whose value the plugin may read
    tls: {ca_file: ca.pem, cert_file: c.pem, key_file: k.pem}
    proxy: http://proxy.example.org:3128
    timeout: 30s
  refresh: {at: 80%, before_expiry: 90s, every: 24h, jitter: 10s, default_lifetime: 1h}
  outputs:
  - file: {path: /run/tokens/eos, mode: "0400", owner: 1000, group: 1000}
    format: {plugin: template, config: {template: "oauth2:{{ token }}:auth.example.org/userinfo"}}
  - secret: {namespace: default, name: warehouse-token, key: token, create: true, labels: {}}
- name: registry
  source: {plugin: acme-idp}
outputs:                                    # several jobs' tokens in one place
- from: [warehouse, registry]
  file: {path: /run/tokens/netrc}
  format: {plugin: netrc}
"#,
    );
    assert_eq!(config.jobs.len(), 2);
    let job = &config.jobs[0];
    assert_eq!(job.id.to_string(), "warehouse");
    assert_eq!(job.refresh, crate::model::defaults::policy());
    assert_eq!(job.source.config["scope"][0], "read");
    assert_eq!(
        job.source.tls.ca_file.as_deref(),
        Some(Path::new("/etc/evertoken/ca.pem"))
    );
    assert!(job.source.secrets.get("refresh_token").unwrap().rotating);
    assert_eq!(job.source.allow[0].to_string(), "https://login.example.org");
    assert_eq!(job.source.timeout, Duration::from_secs(30));
    let Destination::File(file) = &job.outputs[0].destination else {
        panic!("{:?}", job.outputs[0]);
    };
    assert_eq!(
        (file.mode, file.owner, file.group),
        (0o400, Some(1000), Some(1000))
    );
    let Destination::Secret(secret) = &job.outputs[1].destination else {
        panic!("{:?}", job.outputs[1]);
    };
    assert_eq!((secret.key.as_str(), secret.create), ("token", true));
    assert_eq!(config.shared_outputs[0].from.len(), 2);
    assert_eq!(
        config.plugins["acme-idp"].path,
        Path::new("/etc/evertoken/./acme_idp.wasm")
    );
    assert_eq!(
        config.control.as_deref(),
        Some(Path::new("/run/evertoken/warehouse.sock"))
    );
    let StateLocation::Directory { keys, .. } = &config.state else {
        panic!("{:?}", config.state);
    };
    assert!(
        matches!(&keys[..], [SecretOrigin::File(path)] if path == Path::new("/run/secrets/state"))
    );
}

#[test]
fn every_mistake_has_its_place_its_value_and_its_mend() {
    let mut wrong = String::new();
    for (text, expected) in [
        // Form.
        (
            "",
            vec!["1:1: the file is empty (write at least `jobs: […]`)"],
        ),
        (
            "# only a comment\n",
            vec!["1:1: the file is empty (write at least `jobs: […]`)"],
        ),
        (
            "{}",
            vec![
                "1:1: the key `jobs` is missing (add `jobs: […]`, or name further files in `include`)",
            ],
        ),
        (
            "- a\n",
            vec!["1:1: expected a mapping, found a list (write it like `jobs: […]`)"],
        ),
        (
            "jobs: {}\n",
            vec!["1:7: expected a list, found a mapping (write it like `[…]`)"],
        ),
        (
            "jobs:\n",
            vec![
                "1:5: a value is missing: a list is expected (write it like `[…]`, or remove the key)",
            ],
        ),
        (
            "job: []\n",
            vec![
                "1:1: unknown key `job` (did you mean `jobs`?)",
                "1:1: the key `jobs` is missing (add `jobs: […]`, or name further files in `include`)",
            ],
        ),
        (
            "jobs: [{name: a}]\n",
            vec!["1:8: the key `source` is missing (add `source: …`)"],
        ),
        (
            &job_with("", "  outputz: []\n"),
            vec!["5:3: unknown key `outputz` (did you mean `outputs`?)"],
        ),
        (
            &job_with(", secret: {}", ""),
            vec!["3:27: unknown key `secret` (did you mean `secrets`?)"],
        ),
        (
            &job_with(", zzz: 1", ""),
            vec![
                "3:27: unknown key `zzz` (the plugin's own options go under `config`; the keys here are `plugin`, `config`, `secrets`, `allow`, `allow_addresses`, `reveal`, `tls`, `proxy`, `timeout`)",
            ],
        ),
        (
            &job_with("", "  <<: {}\n"),
            vec![
                "5:3: unknown key `<<` (merge keys are not part of YAML 1.2; write the keys out, or use `defaults`)",
            ],
        ),
        (
            &job_with("", "  name: b\n"),
            vec!["5:3: the key `name` is given twice (the other: 2:3) (keep one of them)"],
        ),
        // Units.
        (
            &job_with(", timeout: 90", ""),
            vec![
                "3:36: `90` has no unit (write `90s` for seconds, or another of `ms`, `s`, `m`, `h`, `d`)",
            ],
        ),
        (
            &job_with(", timeout: 5 min", ""),
            vec![
                "3:36: `5 min` is not a time (write whole numbers with their unit, the largest first, like `90s`, `1h30m` or `500ms`; units are `ms`, `s`, `m`, `h`, `d`)",
            ],
        ),
        (
            &job_with(", timeout: 500ms", ""),
            vec!["3:36: shorter than a second (write `1s` or more)"],
        ),
        (
            &job_with("", "  verify: 20000d\n"),
            vec![
                "5:11: `20000d` is longer than ten years (check the unit: `m` is minutes, `ms` milliseconds)",
            ],
        ),
        (
            &job_with("", "  refresh: {at: 0.8}\n"),
            vec!["5:17: `0.8` is not a percentage (write `80%`)"],
        ),
        (
            &job_with("", "  refresh: {at: 80}\n"),
            vec!["5:17: `80` is not a percentage (write it like `80%`)"],
        ),
        (
            &job_with("", "  refresh: {at: 100%}\n"),
            vec!["5:17: `100%` is out of bounds (write a whole percentage from `1%` to `99%`)"],
        ),
        (
            "jobs: []\nlimits: {plugin: {memory: 64}}\n",
            vec!["2:27: `64` has no unit (write `64B`, or another of `KiB`, `MiB`, `GiB`)"],
        ),
        (
            "jobs: []\nlimits: {plugin: {memory: 64Mi}}\n",
            vec![
                "2:27: `64Mi` is not a size (write a whole number with its unit, like `64MiB`; units are `B`, `KiB`, `MiB`, `GiB`)",
            ],
        ),
        (
            "jobs: []\nlimits: {plugin: {compile: 500ms}}\n",
            vec!["2:28: shorter than a second (write `1s` or more)"],
        ),
        (
            "jobs: []\nlimits: {concurrency: 0}\n",
            vec!["2:23: `0` is out of bounds (write a whole number from 1 to 10000)"],
        ),
        (
            "jobs: []\nlimits: {concurrency: many}\n",
            vec!["2:23: expected a whole number, found `many` (write it like `1`)"],
        ),
        // Words.
        (
            &job_with("", "  name2: a\n").replace("name: a", "name: a b"),
            vec![
                "2:9: `a b` is not a name (use at most 63 letters, digits, `-`, `_` and `.`, a letter or digit first and last)",
                "5:3: unknown key `name2` (did you mean `name`?)",
            ],
        ),
        (
            &job_with("", "").replace("name: a", "name: 12"),
            vec![
                "2:9: expected a name, but YAML reads `12` as a number or truth value (quote it: `\"12\"`)",
            ],
        ),
        (
            &job_with(
                ", allow: [login.example.org, ftp://x, https://x/token, https://u:p@x]",
                "",
            ),
            vec![
                "3:35: `login.example.org` is not an origin (write `https://login.example.org`)",
                "3:54: `ftp://x` has a scheme other than https and http (write `https://host` or `https://host:port`)",
                "3:63: `https://x/token` has more than scheme, host and port; leave out user, path, query and fragment (write `https://x`)",
                "3:80: expected an origin, found a bare value (write it like `https://login.example.org`)",
            ],
        ),
        (
            &job_with(", allow: [\"idp:8443\"]", ""),
            vec!["3:35: `idp:8443` has no scheme (write `https://idp:8443`)"],
        ),
        (
            &job_with(
                ", allow_addresses: [10.0.0.0/8, ::1, '10.0.0.1:80', 10.0.0.1/8, 10.0.0.0/33]",
                "",
            ),
            vec![
                "3:62: `10.0.0.1:80` is not an IP address or network (write an address like `127.0.0.1` or `::1`, or a network like `10.0.0.0/8`, without a port)",
                "3:77: `10.0.0.1/8` has an address beyond its prefix (write `10.0.0.0/8`, or `10.0.0.1` alone)",
                "3:89: `10.0.0.0/33` is not an IP address or network (write an address like `127.0.0.1` or `::1`, or a network like `10.0.0.0/8`, without a port)",
            ],
        ),
        (
            &job_with(", proxy: \"http://u:hunter2@proxy\"", ""),
            vec![
                "3:34: expected a proxy's URL, found a bare value (write it like `http://proxy.example.org:3128`)",
            ],
        ),
        (
            &job_with(", proxy: \"socks5://proxy\"", ""),
            vec![
                "3:34: `socks5://proxy` is not a proxy's URL (write `http://host:port` or `https://host:port`)",
            ],
        ),
        (
            "jobs: []\nstate: {dir: /s, key: {secret: {namespace: n, name: s, key: k, pointer: /a}}}\n",
            vec![
                "2:73: a key of the state store is all that is in the Secret's key (remove `pointer`, and give it a key of its own in the Secret)",
            ],
        ),
        (
            "jobs: []\nserve: {address: \":8080\"}\n",
            vec![
                "2:18: `:8080` is not an IP address and port (write `127.0.0.1:8080` for this machine alone, `0.0.0.0:8080` or `[::]:8080` for others too)",
            ],
        ),
        (
            &format!("jobs: []\ncontrol: {{socket: /{}}}\n", "s".repeat(100)),
            vec![
                "2:19: longer than 100 bytes, the most that a socket's path may have (choose a shorter place, e.g. in /run)",
            ],
        ),
        (
            "jobs: []\nserve: {address: 8080}\n",
            vec![
                "2:18: `8080` is not an IP address and port (write `127.0.0.1:8080` for this machine alone, `0.0.0.0:8080` or `[::]:8080` for others too)",
            ],
        ),
        (
            "jobs: []\nplugins: {x: {path: a.wasm, sha256: abc}}\n",
            vec![
                "2:37: `abc` is not a SHA-256: it has 3 of 64 hexadecimal digits (take it from `sha256sum FILE` or `evertoken plugin inspect FILE`)",
            ],
        ),
        (
            "jobs: []\nplugins: {oauth2: {path: a.wasm}}\n",
            vec![
                "2:11: the plugin `oauth2` is built in (choose another name for yours)",
                "2:19: the key `sha256` is missing (add `sha256: …`)",
            ],
        ),
        // Destinations.
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: t/a}}]}]",
            vec![
                "1:67: `t/a` is not an absolute path (write the path from `/` on; the working directory must not decide where a token goes)",
            ],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t/}}]}]",
            vec![
                "1:67: `/t/` names a directory, and without `format` there is one file (name the file, e.g. `/t/token`)",
            ],
        ),
        (
            "jobs: [{name: a, source: {plugin: mirror, secrets: {token: {file: t/}}, reveal: [token], tls: {ca_file: /t/.}}, outputs: [{file: {path: /t}}]}]",
            vec![
                "1:67: `t/` names a directory (name a file in it)",
                "1:105: `/t/.` names a directory (name a file in it)",
            ],
        ),
        (
            "jobs: [{name: a, source: {plugin: mirror, secrets: {token: {file: ~/t}}, reveal: [token], tls: {ca_file: $HOME/ca}}, outputs: [{file: {path: /t}}]}]",
            vec![
                "1:67: `~/t`: a shell would put in the home directory here, and evertoken does not (write the path from `/` on, or a relative one, which counts from this file)",
                "1:106: `$HOME/ca`: a shell would put in the home directory here, and evertoken does not (write the path from `/` on, or a relative one, which counts from this file)",
            ],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t/../a}}]}]",
            vec!["1:67: `/t/../a` has `..` in it (write the path without `..`)"],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t, replace: inplace}}]}]",
            vec![
                "1:80: `inplace` is no way to replace a file (write `rename`, or `in_place` for a single file that is bind-mounted)",
            ],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t, mode: 0400}}]}]",
            vec!["1:77: YAML reads the mode `0400` as a decimal number (quote it: `\"0400\"`)"],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t, mode: '0664'}}]}]",
            vec![
                "1:77: mode `0664` lets group or others write, and so replace the token (write `\"0644\"`)",
            ],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t, mode: rw}}]}]",
            vec![
                "1:77: `rw` is not a file mode (write permission bits in octal, like `\"0400\"` or `\"0640\"`)",
            ],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{}]}]",
            vec!["1:53: one of `file`, `secret` is missing (give exactly one of them)"],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t}, secret: {namespace: n, name: s}}]}]",
            vec!["1:53: `file`, `secret` exclude each other (keep exactly one of them)"],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{secret: {namespace: N, name: a_b, key: a/b, labels: {-x: y, z: 'a b'}}}]}]",
            vec![
                "1:74: `N` is not a Kubernetes namespace (use at most 63 small letters, digits and `-`, a letter or digit first and last)",
                "1:83: `a_b` is not a Kubernetes object's name (use at most 253 small letters, digits, `-` and `.`, a letter or digit first and last in each part)",
                "1:93: `a/b` is not a key of a Secret (use at most 253 letters, digits, `-`, `_` and `.`, not `.` alone and not `..` at the start)",
                "1:107: `-x` is not a label or annotation key (use `name` or `dns.prefix/name`, the name of at most 63 letters, digits, `-`, `_` and `.`)",
                "1:117: `a b` is not a label's value (use at most 63 letters, digits, `-`, `_` and `.`, a letter or digit first and last)",
            ],
        ),
        (
            "jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t}, format: {plugin: tmplate}}]}]",
            vec!["1:89: there is no plugin `tmplate` (did you mean `template`?)"],
        ),
        (
            "jobs: [{name: a, source: {plugin: template}, outputs: [{file: {path: /t}, format: {plugin: oauth2}}]}]",
            vec![
                "1:35: the plugin `template` is a formatter (it belongs under `format`; here you may use `dummy`, `mirror`, `oauth2`)",
                "1:92: the plugin `oauth2` is a source (it belongs under `source`; here you may use `template`)",
            ],
        ),
        // Secrets.
        (
            &job_with(
                ", secrets: {a: {value: ''}, client_secret: {value: \"b\\tc\"}, refresh_token: {value: \"d\\ne\"}}",
                "",
            ),
            vec![
                "3:48: this value cannot be sent: it is empty (write it as the issuer knows it, on one line)",
                "3:76: this value cannot be sent: it has a tab (U+0009) at byte 2 of 3, which no `client_secret` can have (RFC 6749, appendix A) (write it as the issuer knows it, on one line)",
                "3:108: this value cannot be sent: it has a line end (U+000A) at byte 2 of 3, which no `refresh_token` can have (RFC 6749, appendix A) (write it as the issuer knows it, on one line)",
            ],
        ),
        (
            &job_with(", secrets: {x: {}, y: {file: a, env: B}}", ""),
            vec![
                "3:40: one of `file`, `env`, `value`, `secret`, `service_account`, `job` is missing (give exactly one of them)",
                "3:47: `file`, `env` exclude each other (keep exactly one of them)",
            ],
        ),
        (
            &job_with(", secrets: {x: {env: $TOKEN}}", ""),
            vec![
                "3:46: `$TOKEN` is not an environment variable's name (write the name alone, without `$`: letters, digits and `_`, no digit first)",
            ],
        ),
        (
            &job_with(", secrets: {x: {value: 0123}}", ""),
            vec![
                "3:48: a secret's value is text, and YAML does not read this as text (quote it: `value: \"…\"`)",
            ],
        ),
        (
            &job_with(
                ", secrets: {x: {secret: {namespace: n, name: s, key: k, pointer: refresh}}}",
                "",
            ),
            vec![
                "3:90: `refresh` is not a JSON pointer (start each step with `/`, like `/refresh`; write `~` as `~0` and `/` as `~1`)",
            ],
        ),
        (
            &job_with(", secrets: {x: {env: X, pointer: /a}}", ""),
            vec![
                "3:58: `pointer` without `file` (it leads into the JSON in a `file`; for a Kubernetes Secret it stands beside the key: `secret: {…, pointer: …}`)",
            ],
        ),
        (
            &job_with(
                ", secrets: {x: {service_account: {namespace: n, name: s, lifetime: 5m}, rotating: true}}",
                "",
            ),
            vec![
                "3:92: the API server issues no token that lives shorter than 10 minutes (write `10m` or more)",
                "3:107: a token that is made anew for each call does not rotate (remove `rotating`)",
            ],
        ),
        (
            &job_with(", secrets: {x: {env: X, rotating: yes}}", ""),
            vec!["3:59: expected `true` or `false`, found `yes` (write it like `true`)"],
        ),
        (
            &job_with(
                ", secrets: {client_secret: {env: X}}, reveal: [client_secrt]",
                "",
            ),
            vec![
                "3:72: this source has no secret `client_secrt` to reveal (did you mean `client_secret`?)",
            ],
        ),
        (
            &job_with(", tls: {cert_file: c.pem}", ""),
            vec!["3:32: `cert_file` without `key_file` (a client certificate needs both)"],
        ),
        // Plugin configuration.
        (
            &job_with(
                ", config: {a: 007, b: .inf, c: {d: 99999999999999999999}}",
                "",
            ),
            vec![
                "3:39: `007` is a number that would not be passed on as it is written (quote it if it is text; otherwise write a decimal number without leading zeros)",
                "3:47: `.inf` is a number that would not be passed on as it is written (quote it if it is text; otherwise write a decimal number without leading zeros)",
                "3:60: `99999999999999999999` is a number that would not be passed on as it is written (quote it if it is text; otherwise write a decimal number without leading zeros)",
            ],
        ),
        (
            &job_with(", config: [a]", ""),
            vec!["3:35: expected a mapping, found a list (write it like `{key: value}`)"],
        ),
        // References.
        (
            &job_with(", secrets: {x: {job: b}}", ""),
            vec!["3:46: there is no job `b` (name one of the jobs in this configuration)"],
        ),
        (
            &job_with(", secrets: {x: {job: a}}", ""),
            vec![
                "3:46: the job `a` needs its own token, by way of `a` (let one of these jobs take its secret from elsewhere)",
            ],
        ),
        (
            "jobs:\n- {name: a, source: {plugin: mirror, secrets: {x: {job: bb}}}}\n- {name: bb, source: {plugin: mirror, secrets: {x: {job: a}}}}\n",
            vec![
                "3:58: the job `bb` needs its own token, by way of `a` (let one of these jobs take its secret from elsewhere)",
            ],
        ),
        (
            "jobs:\n- {name: a, source: {plugin: dummy}}\n",
            vec![
                "2:10: nobody would get the token of the job `a` (add `outputs`, or name the job in a shared output's `from` or in another job's secret)",
            ],
        ),
        (
            "jobs: []\noutputs: [{from: [], file: {path: /t}, format: {plugin: template}}, {from: [x, x], file: {path: /t}}]\n",
            vec![
                "2:18: an empty `from` (name at least one job)",
                "2:69: the key `format` is missing (add `format: …`)",
            ],
        ),
        (
            "jobs: []\nstate: {dir: var/lib, key: []}\n",
            vec![
                "2:14: `var/lib` is not an absolute path (write the path from `/` on; the working directory must not decide where a token goes)",
                "2:28: an empty list of keys (name a key, or remove `key` to store without encryption)",
            ],
        ),
        (
            "jobs: []\nstate: {dir: /var/lib, key: []}\n",
            vec![
                "2:29: an empty list of keys (name a key, or remove `key` to store without encryption)",
            ],
        ),
        (
            &job_with(", secrets: {x: {file: /t/./a}}", ""),
            vec![
                "3:47: this file is overwritten by an output (the other: 4:27) (write the token to another path)",
            ],
        ),
        (
            &job_with(", tls: {ca_file: /t/a}", ""),
            vec![
                "3:42: this file is overwritten by an output (the other: 4:27) (write the token to another path)",
            ],
        ),
        (
            &format!(
                "state: {{dir: /s, key: {{file: /t/a}}}}\n{}",
                job_with("", "")
            ),
            vec![
                "1:30: this file is overwritten by an output (the other: 5:27) (write the token to another path)",
            ],
        ),
        (
            &format!("state: {{dir: /t}}\n{}", job_with("", "")),
            vec!["5:27: this output is in the state directory (write the token to another path)"],
        ),
        (
            &format!("control: {{socket: /t/a}}\n{}", job_with("", "")),
            vec!["5:27: this output is the control socket (write the token to another path)"],
        ),
        // What YAML can do beside data.
        (
            "a: 1\n---\nb: 2\n",
            vec![
                "2:1: a second YAML document (one file is one document: remove the line `---`, or move what follows into a file of its own and name it in `include`)",
            ],
        ),
        (
            "jobs: !!seq []\n",
            vec![
                "1:13: the tag `!!seq` has no meaning here (leave the tag out; quote what has to be text)",
            ],
        ),
        (
            "jobs: []\n? [a]\n: b\n",
            vec![
                "2:3: a key that is not text (write the key as one word; quote it if it looks like a number or is empty, and quote a value that begins with `{`)",
            ],
        ),
        (
            "jobs: *nowhere\n",
            vec![
                "1:7: not valid YAML: while parsing node, found unknown anchor (define the anchor with `&name` above the alias, or quote a value that starts with `*`)",
            ],
        ),
        (
            "jobs: &a [*a]\n",
            vec!["1:11: this alias stands inside the value that it repeats (write the value out)"],
        ),
        (
            "jobs:\n\t- name: a\n",
            vec![
                "2:2: not valid YAML: tabs disallowed within this context (block indentation) (indent with spaces)",
            ],
        ),
        (
            "jobs: [\0]\n",
            vec!["1:8: a NUL character (this is not a text file; save it as UTF-8)"],
        ),
        (
            "jobs: [\n",
            vec!["1:7: not valid YAML: unclosed bracket '[' (close the bracket)"],
        ),
        (
            "jobs:\n- {name: a, source: {plugin: oauth2, config: {client_id: ${CLIENT}}}}\n",
            vec![
                "2:59: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}' (put `${NAME}` in quotes where it stands between braces: `\"${NAME}\"`)",
            ],
        ),
        (
            "jobs:\n- {name: a, source: {plugin: oauth2, config: {client_id: \"${CLIENT}\"}}\n",
            vec!["2:3: not valid YAML: unclosed bracket '{' (close the bracket)"],
        ),
        (
            "jobs:\n- {name: a, source: {plugin: dummy}, outputs: [{file: {path: /t/x, owner: root, group: -1}}]}\n",
            vec![
                "2:75: expected a number as `id` prints it, found `root` (write it like `1000`)",
                "2:88: `-1` is out of bounds (write a whole number from 0 to 4294967294)",
            ],
        ),
        (
            "jobs:\n- {name: a, source: {plugin: dummy}, outputs: [{path: /x, mode: '0400'}]}\n",
            vec![
                "2:48: one of `file`, `secret` is missing (give exactly one of them)",
                "2:49: unknown key `path` (a file's keys go under `file`: `file: {path: …}`; the keys here are `file`, `secret`, `format`)",
                "2:59: unknown key `mode` (a file's keys go under `file`: `file: {path: …}`; the keys here are `file`, `secret`, `format`)",
            ],
        ),
    ] {
        let found = mistakes(text);
        if found != expected {
            wrong.push_str(&format!(
                "{text}\n  found {found:#?}\n  expected {expected:#?}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = "
limits: {concurrency: lots}
jobs:
- name: a
  source: {plugin: oauht2, timeout: 30}
  outputs: [{file: {path: a}}]
- name: a
  source: {plugin: dummy}
  outputs: [{file: {path: /t/b}}, {secret: {namespace: n, name: s}}, {secret: {namespace: n, name: s, key: token}}]
- name: c
  source: {plugin: dummy}
  outputs: [{file: {path: /t//b}}]
";
    assert_eq!(
        mistakes(text),
        [
            "2:23: expected a whole number, found `lots` (write it like `1`)",
            "5:20: there is no plugin `oauht2` (did you mean `oauth2`?)",
            "5:37: `30` has no unit (write `30s` for seconds, or another of `ms`, `s`, `m`, `h`, `d`)",
            "6:27: `a` is not an absolute path (write the path from `/` on; the working directory must not decide where a token goes)",
            "7:9: two jobs are called `a` (the other: 4:9) (give one of them another name)",
            "9:79: two outputs write the key `token` of the Secret `n/s` (the other: 9:44) (give one of them another key)",
            "12:27: two outputs write the file `/t/b` (the other: 9:27) (give one of them another path)",
        ]
    );
}

#[test]
fn all_that_the_configuration_names_has_its_use() {
    let text = r#"
control: {socket: /r/c.sock}
plugins: {acme: {path: /r/acme.wasm, sha256: 0000000000000000000000000000000000000000000000000000000000000000}}
state: {secret: {namespace: n}, key: [{file: /r/key}, {secret: {namespace: n, name: k, key: key}}]}
jobs:
- name: a
  source:
    plugin: acme
    tls: {ca_file: /r/ca.crt}
    secrets:
      one: {file: /r/one}
      two: {secret: {namespace: n, name: s, key: two}}
  outputs: [{file: {path: /t/a}}, {secret: {namespace: n, name: s}}]
"#;
    let named = read(text).unwrap().config.named;
    for file in [
        "/r/c.sock",
        "/r/acme.wasm",
        "/r/key",
        "/r/ca.crt",
        "/r/one",
        "/t/a",
    ] {
        assert!(named.files.contains(Path::new(file)), "{file}: {named:?}");
    }
    for (name, key) in [("k", "key"), ("s", "two"), ("s", "token")] {
        let place = ("n".to_owned(), name.to_owned(), key.to_owned());
        assert!(named.keys.contains(&place), "{name} {key}: {named:?}");
    }
}

#[test]
fn a_state_store_in_secrets_bounds_answers_to_what_a_secret_holds() {
    let text = "jobs: []\nstate: {secret: {namespace: n}}\n";
    let config = read(text).unwrap().config;
    let StateLocation::Secrets {
        namespace,
        prefix,
        keys,
    } = &config.state
    else {
        panic!("{:?}", config.state);
    };
    assert_eq!(
        (namespace.as_str(), prefix.as_str()),
        ("n", "evertoken-state")
    );
    assert!(keys.is_empty() && config.control.is_none());
    assert_eq!(config.limits.plugin.response_bytes, 512 << 10);
    let limited = |size: &str| format!("{text}limits: {{plugin: {{response: {size}}}}}\n");
    let config = read(&limited("64KiB")).unwrap().config;
    assert_eq!(config.limits.plugin.response_bytes, 64 << 10);
    let refused = read(&limited("1MiB")).unwrap_err();
    assert_eq!(
        lines(&refused),
        [
            "3:29: an answer of this size does not fit into a Secret of the state store (write at most 512KiB, or keep the state in a directory: `state: {dir: …}`)"
        ]
    );
}

#[test]
fn a_rotating_secret_needs_a_place_that_outlives_the_process() {
    let refused = "would be lost with this process, because there is no `state` (add `state: {dir: /var/lib/evertoken}`, in a cluster on a persistent volume or `state: {secret: {namespace: …}}`; or add `write_back: true` to a `file` or `secret`)";
    for (state, secret, good) in [
        ("", "{env: RT, rotating: true}", false),
        ("", "{value: seed, rotating: true}", false),
        ("", "{file: rt, rotating: true}", false),
        ("", "{file: rt, rotating: true, write_back: false}", false),
        (
            "",
            "{secret: {namespace: n, name: s, key: k}, rotating: true}",
            false,
        ),
        ("", "{file: rt, rotating: false}", true),
        ("", "{file: rt, rotating: true, write_back: true}", true),
        (
            "",
            "{secret: {namespace: n, name: s, key: k}, rotating: true, write_back: true}",
            true,
        ),
        ("state: {dir: /s}\n", "{env: RT, rotating: true}", true),
        (
            "state: {secret: {namespace: n}}\n",
            "{env: RT, rotating: true}",
            true,
        ),
    ] {
        let text = format!(
            "{state}{}",
            job_with(&format!(", secrets: {{rt: {secret}}}"), "")
        );
        let found = mistakes(&text);
        assert_eq!(found.is_empty(), good, "{text}{found:?}");
        assert!(
            found
                .iter()
                .all(|line| line.contains("the rotating secret `rt` ") && line.ends_with(refused)),
            "{found:?}"
        );
    }
}

#[test]
fn a_job_s_own_word_goes_before_the_defaults_and_these_before_ours() {
    let config = config(
        "
defaults:
  refresh: {at: 50%, every: 1h}
  source: {timeout: 5s, tls: {ca_file: /ca.pem}, proxy: http://p:1}
jobs:
- name: a
  source: {plugin: dummy}
  outputs: [{file: {path: /a}}]
- name: b
  verify: 1m
  source: {plugin: dummy, timeout: 1h30m, tls: {}, proxy: http://q:2}
  refresh: {at: 66%, jitter: 0s, before_expiry: 500ms}
  outputs: [{secret: {namespace: n, name: s, type: Opaque, create: false, annotations: {a.b/c: ''}}}]
",
    );
    let [a, b] = &config.jobs[..] else {
        panic!("{config:?}");
    };
    assert_eq!(
        (a.refresh.at, a.refresh.every),
        (0.5, Duration::from_secs(3600))
    );
    assert_eq!(
        (a.refresh.jitter, a.verify),
        (Duration::from_secs(10), Duration::from_secs(600))
    );
    assert_eq!(a.source.timeout, Duration::from_secs(5));
    assert_eq!(
        a.source.proxy.as_deref().map(url::Url::as_str),
        Some("http://p:1/")
    );
    assert!(a.source.tls.ca_file.is_some());
    assert_eq!(
        (b.refresh.at, b.refresh.every),
        (0.66, Duration::from_secs(3600))
    );
    assert_eq!(
        (b.refresh.jitter, b.refresh.before_expiry),
        (Duration::ZERO, Duration::from_millis(500))
    );
    assert_eq!(b.source.timeout, Duration::from_secs(5400));
    assert_eq!(
        b.source.proxy.as_deref().map(url::Url::as_str),
        Some("http://q:2/")
    );
    assert!(b.source.tls.ca_file.is_none());
    let Destination::Secret(secret) = &b.outputs[0].destination else {
        panic!("{:?}", b.outputs);
    };
    assert_eq!((secret.key.as_str(), secret.create), ("token", false));
    assert_eq!(secret.secret_type.as_deref(), Some("Opaque"));
    assert!(matches!(config.state, StateLocation::Memory));
    assert!(config.control.is_none() && config.serve.is_none());
    assert_eq!(
        (
            config.limits.concurrency,
            config.limits.in_flight_per_origin
        ),
        (64, 16)
    );
    assert_eq!(config.limits.plugin.compile_time, Duration::from_secs(600));
}

#[test]
fn aliases_repeat_values_and_quoted_numbers_stay_text() {
    let config = config(
        "
jobs:
- name: a
  source: &source {plugin: dummy, config: {id: '0012', n: 3, f: 1.5, t: true, no: no, nil: ~}}
  outputs: [{file: {path: /a}}]
- name: b
  source: *source
  outputs: [{file: {path: /b}}]
",
    );
    assert_eq!(
        config.jobs[1].source.config,
        serde_json::json!({"id": "0012", "n": 3, "f": 1.5, "t": true, "no": "no", "nil": null})
    );
}

#[test]
fn a_bomb_of_aliases_is_refused_in_no_time() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let started = std::time::Instant::now();
    assert!(mistakes(&text)[0].contains("more than 1000000 values once aliases are expanded"));
    assert!(started.elapsed() < Duration::from_secs(2));
    let deep = format!("jobs: {}{}", "[".repeat(100), "]".repeat(100));
    assert_eq!(
        mistakes(&deep),
        ["1:71: nested more than 64 levels deep (write it flatter)"]
    );
    let deeper = format!("jobs: {}", "[".repeat(100_000));
    assert_eq!(mistakes(&deeper).len(), 1);
}

#[test]
fn what_a_small_file_makes_large_is_refused_in_no_time() {
    let long = "x".repeat(1 << 20);
    let aliases = "*a, ".repeat(1000);
    // What this costs is a promise of the release build; the debug build is measured with a part of it.
    let scale = if cfg!(debug_assertions) { 16 } else { 1 };
    let many = |item: &str, bytes: usize| item.repeat(bytes / scale / item.len());
    for (text, words) in [
        // A scalar of a megabyte, repeated: in a configuration, where a name belongs, where a mapping belongs.
        (
            job_with(&format!(", config: {{a: &a {long}, b: [{aliases}]}}"), ""),
            "more than 32 MiB of text once aliases are expanded",
        ),
        (
            format!("include: &a [{long}]\njobs: [{aliases}]\n"),
            "more than 32 MiB of text once aliases are expanded",
        ),
        (
            format!(
                "jobs: [&a {{{}: 1}}, {}]",
                "x".repeat(1000),
                "*a, ".repeat(1000)
            ),
            "the key `name` is missing",
        ),
        // Hundreds of thousands of mistakes, on one line and on as many.
        (
            format!("jobs: [{}]", many("a,", 2 << 20)),
            "expected a mapping",
        ),
        (
            format!("jobs:\n{}", many("- a\n", 2 << 20)),
            "expected a mapping",
        ),
        (
            format!(
                "jobs:\n{}",
                many(
                    "- {name: b, source: {plugin: dummy, secrets: {x: {job: c}}}}\n",
                    1 << 20
                )
            ),
            "two jobs are called `b`",
        ),
        // No YAML at all, after a while.
        (
            format!("jobs: [{}", many("a b ", 8 << 20)),
            "not valid YAML",
        ),
    ] {
        let started = std::time::Instant::now();
        let refused = read(&text).unwrap_err();
        let shown = format!("{refused}{}", refused.drawn(false));
        let took = started.elapsed();
        println!("{words}: {took:?}");
        assert!(
            shown.contains(words),
            "{words}: {}",
            &shown[..shown.len().min(300)]
        );
        assert!(shown.len() < 1 << 20, "{words}: {} bytes", shown.len());
        let most = if cfg!(debug_assertions) { 20 } else { 2 };
        assert!(took < Duration::from_secs(most), "{words}: {took:?}");
    }
}

#[test]
fn more_than_a_configuration_has_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("main.yaml");
    // Of 32 MiB something can be said, of one byte more only that.
    let most = 32 << 20;
    let zeros = |bytes: usize| vec![0; bytes];
    std::fs::write(&main, zeros(most)).unwrap();
    let refused = load_refused(&main).to_string();
    assert!(refused.contains("a NUL character"), "{refused}");
    std::fs::write(&main, zeros(most + 1)).unwrap();
    let refused = load_refused(&main).to_string();
    assert!(
        refused.contains("longer than 32 MiB, all files of the configuration together"),
        "{refused}"
    );
    std::fs::write(&main, "include: [part-*]\n").unwrap();
    for part in 0..3 {
        std::fs::write(
            directory.path().join(format!("part-{part}")),
            zeros(12 << 20),
        )
        .unwrap();
    }
    let refused = load_refused(&main).to_string();
    assert!(refused.contains("part-1:1:1: a NUL character"), "{refused}");
    assert!(refused.contains("part-2: longer than 32 MiB"), "{refused}");
    // What has no end.
    std::fs::write(&main, "include: [/dev/zero]\n").unwrap();
    let refused = load_refused(&main).to_string();
    assert!(refused.contains("/dev/zero: cannot be read"), "{refused}");
}

#[test]
fn a_line_end_in_a_word_and_a_variable_are_no_values() {
    let expanded = "variables like `${NAME}` are not put in; this would be taken as it stands (for a secret write `env: NAME`; else write the value, or put it in before: `envsubst < FILE | evertoken run --config -`)";
    let one_line = "(write it on one line; behind `|` and `>` YAML keeps the line end, behind `|-` and `>-` it does not)";
    for (text, expected) in [
        (
            job_with(", tls: {ca_file: \"ca.pem\\n\"}", ""),
            format!("3:42: a path has a line end (U+000A) at byte 7 of 7 {one_line}"),
        ),
        (
            job_with(", allow: [\"https://idp.example\\r.org\"]", ""),
            format!("3:35: an origin has a line end (U+000D) at byte 20 of 24 {one_line}"),
        ),
        (
            job_with(", proxy: \"http://p:1\\t\"", ""),
            format!("3:34: a proxy's URL has a tab (U+0009) at byte 11 of 11 {one_line}"),
        ),
        (
            job_with("", "  verify: |\n    10m\n"),
            format!("6:5: a time with its unit has a line end (U+000A) at byte 4 of 4 {one_line}"),
        ),
        (
            job_with(", secrets: {x: {value: \"${TOKEN}\"}}", ""),
            format!("3:48: {expanded}"),
        ),
        (
            job_with(", secrets: {x: {file: \"/run/${TOKEN}\"}}", ""),
            format!("3:47: {expanded}"),
        ),
        (
            job_with(", config: {a: [x, $(ID)]}", ""),
            format!("3:43: {expanded}"),
        ),
        (
            job_with(", config: {a: \"x ${ID:-none} y\"}", ""),
            format!("3:39: {expanded}"),
        ),
        (
            job_with(", config: {a: \"x\u{200b}\"}", ""),
            "3:39: this text has an invisible character (U+200B) at byte 2 of 4 (write the text anew instead of copying it)".to_owned(),
        ),
        (
            job_with(", config: {headers: {\"X\\u200b\": y}}", ""),
            "3:46: this text has an invisible character (U+200B) at byte 2 of 4 (write the text anew instead of copying it)".to_owned(),
        ),
        (
            job_with(", tls: {ca_file: \"\\uFEFFca.pem\"}", ""),
            "3:42: this text has an invisible character (U+FEFF) at byte 1 of 9 (write the text anew instead of copying it)".to_owned(),
        ),
        (
            job_with(", config: {a: [b, \"x\u{a0}\"]}", ""),
            "3:43: this text has a no-break space (U+00A0) at byte 2 of 3 (write a blank, or nothing)".to_owned(),
        ),
    ] {
        assert_eq!(mistakes(&text), [expected], "{text}");
    }
    for text in [
        "jobs:\n- name: a\n  source: {plugin: dummy}\n  outputs: [{file: {path: /t}, format: {plugin: template, config: {template: \"\\uFEFF{{ token }}\"}}}]\n".to_owned(),
        job_with(", secrets: {x: {value: \"a${b}c\"}}", ""),
        job_with(", secrets: {x: {value: $ecret}}", ""),
        job_with(", secrets: {x: {value: \"-----BEGIN KEY-----\\n-----END KEY-----\\n\"}}", ""),
        "jobs:\n- name: a\n  source: {plugin: dummy}\n  outputs: [{file: {path: /t}, format: {plugin: template, config: {template: \"export T=${T}\\n\"}}}]\n".to_owned(),
        "jobs:\n- name: a\n  source: {plugin: dummy}\n  outputs: [{secret: {namespace: n, name: s, annotations: {a: \"${X}\\n\"}}}]\n".to_owned(),
        "plugins: {own: {path: p, sha256: 9f2cdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdead}}\njobs:\n- name: a\n  source: {plugin: own, config: {body: \"${X}\"}}\n  outputs: [{file: {path: /t}}]\n".to_owned(),
    ] {
        assert_eq!(mistakes(&text), [""; 0], "{text}");
    }
}

#[test]
fn no_mistake_shows_a_secret() {
    for text in [
        job_with(", timout: 1, secrets: {x: {value: hunter2}}", ""),
        job_with(", secrets: {x: {value: [hunter2], y: hunter2}}", ""),
        job_with(", secrets: {x: {valeu: hunter2}}", ""),
        job_with(", secrets: {x: hunter2}", ""),
        job_with(", secrets: hunter2", ""),
        job_with(", secrets: {x: {secret: hunter2}}", ""),
        job_with(", client_secret: hunter2", ""),
        job_with(", timout: 1, config: {client_secret: hunter2}", ""),
        job_with(", timout: 1, config: {tokens: [hunter2], AccessKeyId: hunter2}", ""),
        job_with(", timout: 1, config: {headers: {Authorization: Bearer hunter2}}", ""),
        job_with(", proxy: \"http://u:hunter2@proxy\"", ""),
        job_with(", timout: 1, config: {url: \"http://u:hunter2@proxy\"}", ""),
        job_with(", secrets: {x: {value: 'hunter2}}", ""),
        job_with(", config: client_secret=hunter2", ""),
        job_with(", config: \"-----BEGIN PRIVATE KEY----- hunter2\"", ""),
        job_with(", config: [\"password: hunter2\"]", ""),
        job_with(", password=hunter2: x", ""),
        job_with(", secrets: {password=hunter2: {file: x}}", ""),
        job_with(", timout: 1, config: {password=hunter2: x}", ""),
        job_with(", timeout: \"token=hunter2\"", ""),
        job_with(", timeout: 1, plugin2: client_secret=hunter2", ""),
        "jobs: client_secret=hunter2\n".to_owned(),
        "jobs:\n- client_secret=hunter2\n".to_owned(),
        "jobs:\n- name: client_secret=hunter2\n  source: {plugin: password=hunter2}\n".to_owned(),
        job_with("", "  x: [\n  secrets:\n    x:\n      value: |\n        hunter2\n        hunter2\n"),
        "jobs:\n- name: a\n  zzz: 1\n  source:\n    secrets:\n      x:\n        value: |\n          hunter2\n          hunter2\n        zzz: 2\n".to_owned(),
        "jobs: []\nstate: {dir: x, key: hunter2}\n".to_owned(),
        // Files that are no configuration.
        "hunter2".to_owned(),
        "hunter2\nhunter3\n".to_owned(),
        "user:hunter2".to_owned(),
        "user: hunter2".to_owned(),
        "PASSWORD=hunter2\nX=y\n".to_owned(),
        "- hunter2\n- a: hunter2\n".to_owned(),
        "|\n  hunter2\n".to_owned(),
        "{hunter2}".to_owned(),
        "hunter2: x\n".to_owned(),
        "{\"access_token\": \"hunter2\", \"hunter3\": []}".to_owned(),
        "-----BEGIN PRIVATE KEY-----\nMIIhunter2\n-----END PRIVATE KEY-----\n".to_owned(),
        "jobs: []\nstate: {dir: x, key: [hunter2, {value: hunter2}]}\n".to_owned(),
    ] {
        let refused = read(&text).expect_err(&text);
        let shown = format!("{refused}\n{}\n{refused:?}", refused.drawn(true));
        assert!(!shown.contains("hunter"), "{text}\n{shown}");
    }
    let accepted = read(&job_with(", secrets: {x: {value: hunter2}}", "")).unwrap();
    assert!(!format!("{accepted:?}").contains("hunter"));
}

#[test]
fn included_files_add_jobs_and_are_named_in_their_mistakes() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "main.yaml",
        "include: [jobs.d/*.yaml]\njobs: []\noutputs: [{from: [a, b], file: {path: /t}, format: {plugin: template}}]\n",
    );
    write(
        "jobs.d/b.yaml",
        "jobs: [{name: b, source: {plugin: mirror, secrets: {x: {file: x}}}}]\n",
    );
    write(
        "jobs.d/a.yaml",
        "jobs: [{name: a, source: {plugin: dummy}}]\n",
    );
    write("jobs.d/ignored.txt", "{");
    let main = directory.path().join("main.yaml");
    let loaded = load(&main).unwrap();
    let names: Vec<_> = loaded
        .config
        .jobs
        .iter()
        .map(|job| job.id.to_string())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let SecretOrigin::File(path) = &loaded.config.jobs[1]
        .source
        .secrets
        .get("x")
        .unwrap()
        .origin
    else {
        panic!("{:?}", loaded.config.jobs[1]);
    };
    assert_eq!(path, &directory.path().join("jobs.d/x"));

    write(
        "jobs.d/c.yaml",
        "jobs: [{name: a, source: {plugin: dummy}}]\nserve: {}\n",
    );
    write("jobs.d/d.yaml", "jobs: [");
    write("main.yaml", "include: [jobs.d/*.yaml, jobs.d/none.yaml]\n");
    let shown = load_refused(&main).to_string();
    let shown = shown.replace(&format!("{}/", directory.path().display()), "");
    assert_eq!(
        shown.lines().collect::<Vec<_>>(),
        [
            "jobs.d/none.yaml: cannot be read: it does not exist (name a readable YAML file; `--config FILE` or EVERTOKEN_CONFIG names the first)",
            "jobs.d/c.yaml:1:15: two jobs are called `a` (the other: jobs.d/a.yaml:1:15) (give one of them another name)",
            "jobs.d/c.yaml:2:1: unknown key `serve` (the keys here are `jobs`, `outputs`)",
            "jobs.d/d.yaml:1:7: not valid YAML: unclosed bracket '[' (close the bracket)",
        ]
    );
}

#[test]
fn a_file_that_is_no_text_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.yaml");
    std::fs::write(&path, b"jobs:\n- \xff\n").unwrap();
    let shown = load_refused(&path).to_string();
    assert!(
        shown.ends_with("f.yaml:2:3: not UTF-8 text (save the file as UTF-8)"),
        "{shown}"
    );
    let shown = load_refused(directory.path()).to_string();
    assert!(shown.contains("cannot be read"), "{shown}");
}

#[test]
fn a_file_that_is_one_long_line_is_not_drawn_over_and_over() {
    let text = format!(
        "{{jobs: [{}], limits: {{concurrency: x}}}}",
        "{naem: a}, ".repeat(200)
    );
    let refused = read(&text).unwrap_err();
    assert_eq!(refused.len(), 601);
    assert!(
        refused.drawn(false).len() < 100_000,
        "{}",
        refused.drawn(false).len()
    );
    assert!(
        refused
            .drawn(false)
            .contains("f.yaml:1:10: unknown key `naem`"),
        "{refused}"
    );
    assert!(refused.to_string().ends_with("and 501 more"), "{refused}");
}

#[test]
fn a_later_judge_finds_the_place_of_what_it_judges() {
    let loaded = read(
        "
jobs:
- name: a
  source:
    plugin: oauth2
    config:
      token_url: 5
      scope: [x, 7]
  outputs:
  - file: {path: /t}
    format: {plugin: template, config: {tmpl: 1}}
",
    )
    .unwrap();
    let said: Vec<_> = loaded.places.plugin_options().collect();
    let [source, format] = &said[..] else {
        panic!("{} options", said.len());
    };
    assert_eq!(
        (source.wanted, source.plugin, &source.config["token_url"]),
        (PluginUse::Source, "oauth2", &serde_json::json!(5))
    );
    assert_eq!(
        (format.wanted, format.plugin, &*format.config),
        (
            PluginUse::Formatter,
            "template",
            &serde_json::json!({"tmpl": 1})
        )
    );
    for (place, expected) in [
        (
            source.place.pointer("/token_url"),
            "f.yaml:7:18: wrong (mend)",
        ),
        (
            source.place.pointer("/scope/1"),
            "f.yaml:8:18: wrong (mend)",
        ),
        (
            source.place.pointer("/missing/deeper"),
            "f.yaml:7:7: wrong (mend)",
        ),
        (source.place.pointer(""), "f.yaml:7:7: wrong (mend)"),
        (format.place.pointer("/tmpl"), "f.yaml:11:47: wrong (mend)"),
    ] {
        let mistake = loaded
            .places
            .mistake(place, "wrong", Some("mend".to_owned()));
        assert_eq!(mistake.to_string(), expected);
    }
}

#[test]
fn what_is_said_to_plugins_is_known_beside_mistakes_but_not_where_it_has_one() {
    let refused = parse(
        "
limits: {concurrency: lots}
plugins: {own: {path: own.wasm, sha256: 9f2cdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdead}, broken: {path: x.wasm}}
jobs:
- {name: a, nmae: a, source: {plugin: own, timeout: 5}}
- {name: b, source: {plugin: unreadable, config: [list]}}
- {name: c, source: {plugin: unreadable, config: {number: 007}}}
- {name: d, source: {plugin: [unreadable]}, outputs: [{file: {path: relative}}, {format: {plugin: in-output, config: {x: 1}}}]}
- what
outputs: [{from: [nobody], format: {plugin: shared}}]
",
        "f.yaml",
        Path::new(DIRECTORY),
    )
    .unwrap_err();
    let names: Vec<_> = refused
        .places
        .plugin_options()
        .map(|said| said.plugin)
        .collect();
    assert_eq!(names, ["own", "in-output", "shared"]);
    assert_eq!(refused.plugins.keys().collect::<Vec<_>>(), ["own"]);

    let count = refused.mistakes.len();
    let place = refused.places.plugin_options().nth(1).unwrap().place;
    let mistake = refused.places.mistake(place, "wrong", None);
    let all = lines(&refused.mistakes.and(vec![mistake]));
    let at = all.iter().position(|line| line.ends_with("wrong"));
    assert_eq!(all.len(), count + 1);
    assert!(
        at.is_some_and(|at| at > 0 && at < count),
        "in the order of the places: {all:#?}"
    );
}

#[test]
fn ten_thousand_jobs_are_read_in_time() {
    // Two seconds for ten thousand are a promise of the release build; the debug build is measured with a tenth of it.
    let jobs = if cfg!(debug_assertions) {
        1_000
    } else {
        10_000
    };
    let mut text = "jobs:\n".to_owned();
    for number in 0..jobs {
        text.push_str(&format!(
            "- name: job-{number}
  source:
    plugin: oauth2
    config: {{grant: client_credentials, token_url: https://idp.example.org/token, client_id: svc-{number}, scope: [read, write]}}
    secrets:
      client_secret: {{file: /run/secrets/job-{number}}}
  refresh: {{at: 80%, before_expiry: 90s}}
  outputs:
  - file: {{path: /run/tokens/job-{number}, mode: \"0400\"}}
  - secret: {{namespace: default, name: token-{number}}}
"
        ));
    }
    let started = std::time::Instant::now();
    assert_eq!(config(&text).jobs.len(), jobs);
    let took = started.elapsed();
    println!("{jobs} jobs in {took:?}");
    assert!(
        took < Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 2 }),
        "{took:?}"
    );
}

/// The schema that users' editors read is the one that the reader follows.
mod the_schema {
    use super::*;

    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/evertoken.schema.json")
    }

    #[test]
    fn in_the_repository_is_up_to_date() {
        let now = format!("{:#}\n", schema());
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::create_dir_all(path().parent().unwrap()).unwrap();
            std::fs::write(path(), &now).unwrap();
        }
        let kept = std::fs::read_to_string(path()).unwrap();
        assert!(
            kept == now,
            "run `UPDATE_SCHEMA=1 cargo test -p evertoken the_schema`"
        );
    }

    #[test]
    fn agrees_with_the_reader_on_form() {
        let schema = schema();
        // An API server and many editors know no pattern that looks ahead (RE2, ECMA-262 in part).
        let validator = jsonschema::options()
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .build(&schema)
            .unwrap();
        let job = |part: &str| {
            format!(
                "jobs: [{{name: a, source: {{plugin: dummy}}, outputs: [{{file: {{path: /t}}}}]{part}}}]"
            )
        };
        for (text, good) in [
            (job(""), true),
            (job(", verify: 10m"), true),
            (job(", verify: 10"), false),
            (job(", verify: 10m5h"), false),
            (job(", verify: ''"), false),
            (job(", refresh: {at: 80%}"), true),
            (job(", refresh: {at: 0.8}"), false),
            (job(", refresh: {att: 80%}"), false),
            ("jobs: []\nstate: {dir: /s, key: {env: K}}".to_owned(), true),
            ("jobs: []\nstate: {dir: /s, key: [{env: K}, {file: f}]}".to_owned(), true),
            ("jobs: []\nstate: {dir: /s, key: {env: K, file: f}}".to_owned(), false),
            ("jobs: []\nstate: {}".to_owned(), false),
            ("jobs: []\nstate: {secret: {namespace: n, prefix: p}, key: {env: K}}".to_owned(), true),
            ("jobs: []\nstate: {secret: {namespace: n, prefix: P_}}".to_owned(), false),
            ("jobs: []\nstate: {dir: /s, secret: {namespace: n}}".to_owned(), false),
            ("jobs: []\nlimits: {plugin: {memory: 64MiB, requests: 0}}".to_owned(), true),
            ("jobs: []\nlimits: {plugin: {requests: -1}}".to_owned(), false),
            ("jobs: [{name: a}]".to_owned(), false),
            ("jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t, mode: '0400'}}]}]".to_owned(), true),
            ("jobs: [{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t, mode: '0666'}}]}]".to_owned(), false),
            ("jobs: [{name: a, source: {plugin: dummy}, outputs: [{}]}]".to_owned(), false),
        ] {
            let mut budget = crate::config::yaml::Budget::default();
            let tree = crate::config::yaml::parse(&text, 0, &mut budget).tree;
            let mut diagnostics = crate::config::read::Diagnostics::default();
            let json = crate::config::read::json_of(&tree.unwrap(), &mut diagnostics).unwrap();
            assert_eq!(validator.is_valid(&json), good, "schema: {text}");
            assert_eq!(read(&text).is_ok(), good, "reader: {text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "[a-z0-9 :\\-\\[\\]{},\"'|>&*!%#@\t\n~.é]{0,200}") {
        if let Err(mistakes) = read(&text) {
            prop_assert!(!mistakes.to_string().is_empty());
            prop_assert!(!mistakes.drawn(false).is_empty());
        }
    }

    #[test]
    fn no_mixture_of_known_words_makes_it_panic(words in proptest::collection::vec(
        proptest::sample::select(vec![
            "jobs", "name", "source", "plugin", "secrets", "value", "outputs", "file", "path", "include", "defaults", "state", "key", "from",
            ": ", "- ", "\n", "\n  ", "\n    ", "{", "}", "[", "]", ", ", "'", "\"", "80%", "1h", "/t", "é", "&a ", "*a", "!t ", "|\n", "\0", "0400", "~",
        ]), 0..60)
    ) {
        if let Err(mistakes) = read(&words.concat()) {
            prop_assert!(!mistakes.drawn(false).is_empty());
        }
    }

    #[test]
    fn a_secret_is_not_shown_wherever_the_file_breaks(at in 0_usize..200, junk in "[:\\[\\]{}'\"\n\t,]{1,3}") {
        let mut text = job_with(", secrets: {x: {value: hunter2hunter2}}, config: {password: hunter2hunter2}", "");
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        // Breaking the secret itself would leave two halves that are both looked for.
        text.insert_str(at, &junk);
        if let Err(mistakes) = read(&text) {
            let shown = format!("{mistakes}{}", mistakes.drawn(false));
            prop_assert!(!shown.contains("hunter2"), "{}\n{}", text, shown);
        }
    }
}

/// A profile with one part of it written by the test.
fn profile_with(parts: &str) -> String {
    format!("profiles:\n  p: {{plugin: dummy{parts}}}\n")
}

#[test]
fn every_mistake_of_a_profile_has_its_place_its_value_and_its_mend() {
    for (parts, expected) in [
        ("", &[][..]),
        (", config: {a: \"{x}\"}, parameters: {x: {}}", &[]),
        (
            ", config: {a: \"{x}\"}",
            &[
                "2:30: `config.a` has a parameter `x` that is not declared (declare it: `parameters: {x: {}}`)",
            ],
        ),
        (
            ", parameters: {x: {}}",
            &[
                "2:35: no text in `config` has the parameter `x` (write `{x}` where its value belongs, or remove it)",
            ],
        ),
        (
            ", config: {a: [\"{\"]}",
            &[
                "2:30: `config.a[0]`: a single `{`; write `{NAME}` for a parameter and `{{` for the brace itself (see Profiles in config/README.md)",
            ],
        ),
        (
            ", config: {a: \"{x}://b\"}, parameters: {x: {}}",
            &[
                "2:30: `config.a`: the parameter `x` stands before `://`; only the administrator says what the scheme is (see Profiles in config/README.md)",
                "2:59: no text in `config` has the parameter `x` (write `{x}` where its value belongs, or remove it)",
            ],
        ),
        (
            ", config: {a: \"{x}\"}, parameters: {x: {pattern: \"[a\"}}",
            &[
                "2:68: `[a` is no regular expression: unclosed character class (write it like `[a-z0-9-]+`; look-around and back references are not known)",
            ],
        ),
        (
            ", config: {a: \"{x}\"}, parameters: {x: {pattern: \"[a-z]+\", default: A1}}",
            &[
                "2:87: no value of the parameter `x`: it must match `[a-z]+` (write one that a tenant may give, or change `pattern`)",
            ],
        ),
        (
            ", secrets: {s: {env: S}}, tenant_secrets: {s: {}}",
            &[
                "2:63: the secret `s` is both the administrator's and the tenant's (the other: 2:32) (name it once)",
            ],
        ),
        (
            ", tenant_secrets: {s: {rotating: true}}",
            &[
                "2:53: the rotating secret `s` would be lost with this process, because there is no `state` (add `state`, or `write_back: true` to have each new value put back into the tenant's Secret)",
            ],
        ),
        (
            ", tenant_secrets: {s: {write_back: true}}",
            &[
                "2:55: `write_back` is about rotating secrets, and this one is none (remove it, or add `rotating: true`)",
            ],
        ),
        (
            ", namespaces: [Team]",
            &[
                "2:35: `Team` is not a Kubernetes namespace, or a pattern of some (use at most 63 small letters, digits, `-` and `*`, which stands for any characters)",
            ],
        ),
        (
            ", outputs: []",
            &[
                "2:22: unknown key `outputs` (the plugin's own options go under `config`; the keys here are `plugin`, `config`, `parameters`, `secrets`, `tenant_secrets`, `allow`, `allow_addresses`, `reveal`, `tls`, `proxy`, `timeout`, `refresh`, `verify`, `formats`, `limits`, `namespaces`)",
            ],
        ),
    ] {
        assert_eq!(mistakes(&profile_with(parts)), expected, "{parts}");
    }
    let served = |name: &str| {
        format!(
            "{}annotated_secrets: {{default_profile: {name}}}\n",
            profile_with("")
        )
    };
    assert_eq!(mistakes(&served("p")), Vec::<String>::new());
    let unknown = ["3:38: there is no profile `idp` (describe it: `profiles: {idp: {plugin: …}}`)"];
    assert_eq!(mistakes(&served("idp")), unknown);
}
