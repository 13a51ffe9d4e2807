"""The configuration: files that load, files that do not and what is said of them, the example."""

import json
import os
import random
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from karoo.config import Address, Config, ConfigError, from_dict, load, loads, parse_address, remarks, without_effect
from karoo.configaddresses import Host, Listen, Network, Origin, PoolUrl
from karoo.configdoc import example
from karoo.configfile import MAX_CHARS
from karoo.configkinds import (
    AutoOr,
    Choice,
    File,
    Fingerprint,
    Flag,
    Hex,
    Left,
    Listed,
    Number,
    Table,
    Text,
    Token,
    Whole,
)
from karoo.configschema import Option, Section, members, walk

HERE = Path(__file__).parent / "config"
VALID = sorted(path for path in (HERE / "valid").iterdir() if path.suffix != ".expect")
INVALID = sorted(path for path in (HERE / "invalid").iterdir() if path.suffix != ".faults")
EXAMPLE_FILE = Path(__file__).parent.parent / "conf" / "karoo.yaml"

ENVIRON = {"POOL": "eu", "PORT": "3334", "WALLET": "bc1q", "PASS": "hunter2 ${PORT}", "TLS": "yes", "ONE": "1",
           "MINERS": "70"}
POOL = {"host": "pool.example.org", "user": "wallet"}

relaxed = settings(deadline=None)


def values(config):
    return {path: plain(option, value) for path, option, value in walk(config)}


def plain(option, value):
    """The value as it stands in a file: a table is a dict there."""
    as_plain = {Table: dict, Listed: list}.get(type(option.kind))
    return value if as_plain is None else as_plain(value)


def as_dict(config):
    """The configuration as the nested dicts that `from_dict` takes."""
    def section(options):
        return {member.name: member_value(member, getattr(options, member.attribute))
                for member in members(type(options))}

    def member_value(member, value):
        if isinstance(member, Option):
            return plain(member, value)
        return [section(item) for item in value] if member.many else section(value)

    whole = section(config)
    if config.listeners:
        del whole["proxy"]["listen"]
    for pool in (whole["upstream"], *whole["backups"]):
        if pool["url"]:
            del pool["host"], pool["port"], pool["tls"]
    return whole


def faults(text, environ=ENVIRON):
    with pytest.raises(ConfigError) as caught:
        loads(text, environ)
    return [str(fault) for fault in caught.value.faults]


# Files

@pytest.mark.parametrize("path", VALID, ids=lambda path: path.name)
def test_a_valid_file_gives_what_stands_beside_it(path):
    expected = {}
    for line in path.with_suffix(".expect").read_text("utf-8").splitlines():
        name, _, value = line.partition(": ")
        expected[name] = json.loads(value)
    found = values(load(path, ENVIRON))
    assert {name: found[name] for name in expected} == expected
    assert all(type(found[name]) is type(value) for name, value in expected.items())


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.name)
def test_an_invalid_file_has_the_faults_that_stand_beside_it(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with pytest.raises(ConfigError) as caught:
        load(path.name, ENVIRON)
    assert str(caught.value) + "\n" == path.with_suffix(".faults").read_text("utf-8")
    assert "hunter2" not in str(caught.value)


def test_every_data_file_is_used():
    tested = {path.with_suffix("") for path in VALID + INVALID}
    assert {path.with_suffix("") for folder in ("valid", "invalid") for path in (HERE / folder).iterdir()} == tested
    assert len(VALID) > 5 and len(INVALID) > 20


def test_a_json_file_indented_by_tabs_or_spaces_or_not_at_all_is_the_same():
    text = (HERE / "valid" / "original.json").read_text()
    plain = loads(text, {})
    for indent in (None, 1, "\t", "\t\t"):
        assert loads(json.dumps(json.loads(text), indent=indent), {}) == plain
    assert loads(text.replace("\n", "\r\n"), {}) == plain
    assert loads("\ufeff" + text, {}) == plain


def test_paths_begin_at_the_file(tmp_path):
    path = tmp_path / "karoo.yaml"
    path.write_text("""
upstream: {host: p, user: u, tls: true, ca_file: ca.pem, cert_file: /etc/c.pem}
listeners: [{address: ":1", tls: {enabled: true, cert_file: certs/c.pem, key_file: ../k.pem}}]
""")
    config = load(path, {})
    tls = config.listeners[0].tls
    assert (tls.cert_file, tls.key_file) == (f"{tmp_path}/certs/c.pem", f"{tmp_path}/../k.pem")
    assert (config.upstream.ca_file, config.upstream.cert_file) == (f"{tmp_path}/ca.pem", "/etc/c.pem")
    assert config.accounting.database == f"{tmp_path}/karoo.db"
    assert load(path, {}).given >= {"listeners[0].tls.cert_file"}


def test_a_profile_changes_what_it_says_and_leaves_the_rest():
    config = from_dict({"upstream": POOL, "vardiff": {"min_diff": 1, "target_seconds": 20},
                        "listeners": [{"address": ":1", "profile": {"min_diff": 2, "start_diff": 5}},
                                      {"address": ":2"}]})
    own, usual = (config.vardiff_of(one) for one in config.ways_in)
    assert (own.min_diff, own.start_diff, own.target_seconds) == (2, 5, 20)
    assert usual == config.vardiff
    assert [one.address for one in from_dict({"upstream": POOL}).ways_in] == ["0.0.0.0:3333"]


def test_files_that_cannot_be_read(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"upstream:\n  host: p\n  user: caf\xe9\n")
    for path, line, words in (
        (tmp_path / "missing.yaml", None, "no such file: check the path"),
        (tmp_path, None, "this is a directory: name a file in it"),
        (latin, 3, "not UTF-8 text: save the file as UTF-8"),
        ("a\0b", None, "the file cannot be read"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert str(caught.value).startswith(f"{os.fspath(path)}: 1 fault\n")
        assert caught.value.faults[0].line == line
        assert words in caught.value.faults[0].sentence


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError, match="may not be read: give the user of the proxy the right"):
        load("karoo.yaml", {})


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "marked.yaml"
    path.write_text("upstream: {host: p, user: u}", encoding="utf-8-sig")
    assert load(path, {}).upstream.host == "p"


# Faults

def test_every_fault_is_listed_in_file_order_under_one_headline():
    text = (HERE / "invalid" / "every_kind.yaml").read_text()
    with pytest.raises(ConfigError) as caught:
        loads(text, {}, "karoo.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"karoo.yaml: {len(caught.value.faults)} faults"
    assert len(lines) == 1 + len(caught.value.faults)
    assert [fault.line for fault in caught.value.faults] == sorted(fault.line for fault in caught.value.faults)


@relaxed
@given(st.integers(0, 60), st.sampled_from(["yaml", "json", "tabs"]), st.randoms(use_true_random=False))
def test_the_line_of_a_fault_is_exact(blank, form, rng):
    tree = {"upstream": dict(POOL), "http": {"pprof": True}, "backups": [dict(POOL), {**POOL, "port": "MARK"}]}
    keys = list(tree)
    rng.shuffle(keys)
    tree = {key: tree[key] for key in keys}
    if form == "yaml":
        text = yaml.safe_dump(tree, sort_keys=False)
    else:
        text = json.dumps(tree, indent="\t" if form == "tabs" else 2)
    text = "\n" * blank + text
    line = next(number for number, each in enumerate(text.splitlines(), 1) if "MARK" in each)
    with pytest.raises(ConfigError) as caught:
        loads(text, {})
    assert [(fault.path, fault.line) for fault in caught.value.faults] == [("backups[1].port", line)]


@pytest.mark.parametrize("text", [
    "[" * 1000, "[" * 1000 + "]" * 1000, '{"a":' * 1000 + "1" + "}" * 1000, '{"a":' * 30_000, "{" * 100_000,
    "- " * 5000, "? " * 5000, "\n".join(" " * depth + "a:" for depth in range(500)),
])
def test_deep_nesting_is_a_fault(text):
    (fault,) = faults(text)
    assert "nested deeper than 20 levels" in fault


def test_an_alias_bomb_is_a_fault():
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    bomb = "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairs)
    (fault,) = faults(bomb)
    assert fault.startswith("line 1: anchors (&name) and aliases (*name) are not read")


def test_size_is_bounded():
    assert faults("#" * (MAX_CHARS + 1)) == ["longer than 262144 characters: this is hardly a configuration file"]
    assert "line 2: backups: found 101, wants at most 100" in faults("backups:\n" + "- {host: p, user: u}\n" * 101)


def test_characters_that_yaml_does_not_know_are_faults_with_their_line():
    assert faults("log:\n  level: in\0fo") == ["line 2: holds the character U+0000: remove it"]
    assert faults("log:\n  level: in\ud800fo") == ["line 2: holds the character U+D800: remove it"]
    assert faults('log:\n  level: "\\UFFFFFFFF"')[0].startswith("line 2: not valid YAML")


def test_half_a_surrogate_pair_in_json_is_a_fault():
    assert faults('{"upstream": {"host": "p", "user": "\\ud83d"}}') == [
        'line 1: upstream.user: found the text "\\ud83d", wants a text of one line, not empty: '
        "it holds a line break or another unprintable character"]


# Secrets

def test_secrets_are_shown_neither_by_repr_nor_by_str():
    socks = {"enabled": True, "password": "hunter2"}
    config = from_dict({"upstream": {**POOL, "pass": "hunter2", "socks_proxy": socks},
                        "backups": [{**POOL, "pass": "hunter2"}],
                        "http": {"token": "hunter2-and-more-1", "read_token": "hunter2-and-more-2"}})
    assert config.http.token == "hunter2-and-more-1"
    assert config.upstream.password == config.upstream.socks_proxy.password == "hunter2"
    assert "hunter2" not in repr(config) + str(config)


@relaxed
@given(st.text(max_size=20), st.sampled_from(["pass", "password"]), st.sampled_from(["yaml", "json", "raw"]))
def test_no_fault_shows_a_secret(noise, option, form):
    assume("${" not in noise)  # the name of a variable that is not set is shown
    secret = f"{noise}hunter2{noise}"
    pool = {"host": "p", "port": "bad", "user": "u"}
    pool |= {"pass": secret} if option == "pass" else {"socks_proxy": {"password": secret}}
    if form == "raw":
        assume(len(secret.splitlines()) == 1)
        text = f"upstream:\n  pass: {secret}\n"
    else:
        text = yaml.safe_dump({"upstream": pool}) if form == "yaml" else json.dumps({"upstream": pool})
    with pytest.raises(ConfigError) as caught:
        loads(text, {})
    assert "hunter2" not in str(caught.value)


# Addresses

@pytest.mark.parametrize("text, host, port", [
    ("0.0.0.0:3333", "0.0.0.0", 3333), (":3333", "0.0.0.0", 3333), ("[::1]:3333", "::1", 3333), ("[::]:0", "::", 0),
    ("localhost:65535", "localhost", 65535),
])
def test_addresses(text, host, port):
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", "3333", "localhost", "::1:3333", "[::1]", "[nowhere]:1", "a:65536", "a:-1", "a:",
                                  "a b:1", "a..b:1", "tcp://a:1", "a:1 ", "a:\u0661", "[]:1", "a:000001"])
def test_what_is_no_address(text):
    with pytest.raises(ValueError):
        parse_address(text)


@relaxed
@given(st.text(alphabet="ab.:[]0123456789-", max_size=20))
def test_an_address_is_read_or_refused_never_misread(text):
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert 0 <= port <= 65535
    shown = f"[{host}]" if ":" in host else host
    assert text.rpartition(":")[0] in {shown, ""}


# Meanings

def test_what_is_given_is_known():
    config = loads("upstream: {host: p, user: u, pass: }\nbackups: [{host: q, user: u, port: 1}]\nlog:\n", {})
    assert config.given == {"upstream.host", "upstream.user", "backups[0].host", "backups[0].user", "backups[0].port"}


def test_options_without_effect_are_named_only_where_they_differ_from_the_default():
    config = from_dict({
        "upstream": POOL,
        "proxy": {"write_buf": 8192, "read_buf": 8192},
        "vardiff": {"target_seconds": 5, "adjust_every_ms": 1000, "start_by_agent": {}, "rounding": "power_of_two"},
        "accounting": {"database": "other.db"},
        "ratelimit": {"enabled": True, "max_connections_per_ip": 100},
    })
    assert remarks(config) == without_effect(config) == [
        "proxy.write_buf is set, but never has an effect: the proxy writes straight to the socket",
    ]
    assert remarks(load(EXAMPLE_FILE, {})) == []


def test_worker_names_given_as_passthrough_agree_with_either_local_authorize():
    for local in (True, False):
        config = from_dict({"upstream": {**POOL, "worker_names": "passthrough"}, "compat": {"local_authorize": local}})
        assert config.upstream.worker_names == "passthrough"


def test_who_is_paid_is_said_where_the_original_paid_somebody_else():
    only, = remarks(from_dict({"upstream": POOL, "compat": {"local_authorize": False}}))
    assert "credits their shares to them" in only and "worker_names: single" in only
    meant = {"upstream": {**POOL, "worker_names": "passthrough"}, "compat": {"local_authorize": False}}
    assert remarks(from_dict(meant)) == remarks(from_dict({"upstream": POOL})) == []


def test_an_algorithm_of_none_needs_vardiff_off():
    config = from_dict({"upstream": POOL, "shares": {"algorithm": "none"}, "vardiff": {"enabled": False}})
    assert config.shares.algorithm == "none"
    with pytest.raises(ConfigError, match=r"set vardiff\.enabled: false"):
        from_dict({"upstream": POOL, "shares": {"algorithm": "none"}})


def test_a_config_cannot_be_changed():
    config = from_dict({"upstream": POOL})
    with pytest.raises(AttributeError):
        config.upstream.port = 5
    with pytest.raises((AttributeError, TypeError)):
        config.upstream.prot = 5


# Tables

def test_a_table_keeps_its_order_and_replaces_the_default_as_a_whole():
    for config in (loads("upstream: {host: p, user: u}\nvardiff: {start_by_agent: {zz: 2, aa: 1}}", {}),
                   loads('{"upstream": {"host": "p", "user": "u"}, "vardiff": {"start_by_agent": {"zz": 2, "aa": 1}}}'),
                   from_dict({"upstream": POOL, "vardiff": {"start_by_agent": {"zz": 2, "aa": 1.0}}})):
        assert config.vardiff.start_by_agent == (("zz", 2.0), ("aa", 1.0))
        assert all(type(value) is float for _, value in config.vardiff.start_by_agent)
        assert "vardiff.start_by_agent" in config.given
        hash(config)


def test_a_table_left_open_is_the_default_and_an_empty_one_is_empty():
    default = from_dict({"upstream": POOL}).vardiff.start_by_agent
    assert dict(default)["nerdminer"] == 0.0001 and len(default) == 15
    assert from_dict({"upstream": POOL, "vardiff": {"start_by_agent": None}}).vardiff.start_by_agent == default
    assert from_dict({"upstream": POOL, "vardiff": {"start_by_agent": {}}}).vardiff.start_by_agent == ()


def test_the_bounds_of_a_table():
    table = {f"{number:064}": 1 for number in range(64)}
    assert len(from_dict({"upstream": POOL, "vardiff": {"start_by_agent": table}}).vardiff.start_by_agent) == 64
    text = "upstream: {host: p, user: u}\nvardiff:\n  start_by_agent:\n"
    text += "".join(f"    a{number}: x\n" for number in range(65))
    assert faults(text) == ["line 4: vardiff.start_by_agent: found 65, wants at most 64"]


def test_the_line_of_a_fault_in_a_json_table():
    text = '{"upstream": {"host": "p", "user": "u"},\n "vardiff": {"start_by_agent": '
    text += '{"a": 1,\n\n\t"b": true,\n"A": 1}}}'
    assert faults(text) == [
        "line 4: vardiff.start_by_agent.b: found true, wants a number from 1e-12 to 1e18",
        "line 5: vardiff.start_by_agent.A: given twice, first on line 2: keep one of them",
    ]


def test_a_table_from_code_goes_through_the_same_rules():
    with pytest.raises(ConfigError) as caught:
        from_dict({"upstream": POOL, "vardiff": {"start_by_agent": {"a": "1", "b": None, 5: 5, "A": 2, "c": "${ONE}"}}})
    assert str(caught.value).splitlines()[1:] == [
        '  vardiff.start_by_agent.a: found the text "1", wants a number from 1e-12 to 1e18: '
        "write the number without quotes",
        "  vardiff.start_by_agent.b: missing, wants a number from 1e-12 to 1e18",
        "  vardiff.start_by_agent: found something else than a text in the place of a name",
        "  vardiff.start_by_agent.A: given twice: keep one of them",
        '  vardiff.start_by_agent.c: found the text "${ONE}", wants a number from 1e-12 to 1e18',
    ]


@relaxed
@given(st.dictionaries(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], max_codepoint=0xffff), min_size=1,
                               max_size=64).filter(str.isprintable), st.floats(1e-12, 1e18), max_size=8))
def test_a_table_is_read_as_it_is_written(table):
    assume(len({name.lower() for name in table}) == len(table))
    kind = Table(Number(1e-12, 1e18))
    pairs = tuple(table.items())
    block = "".join(f"\n    {row}" for row in kind.rows(pairs))
    for written in (kind.write(pairs), block or "{}"):
        text = f"upstream: {{host: p, user: u}}\nvardiff:\n  start_by_agent: {written}"
        assert loads(text, {}).vardiff.start_by_agent == pairs


# Lists

def test_a_list_keeps_its_order_and_replaces_the_default_as_a_whole():
    for config in (loads("upstream: {host: p, user: u}\nratelimit:\n  deny:\n  - 10.0.0.0/8\n  - ::1", {}),
                   from_dict({"upstream": POOL, "ratelimit": {"deny": ["10.0.0.0/8", "::1"]}})):
        assert config.ratelimit.deny == ("10.0.0.0/8", "::1") and config.ratelimit.allow == ()
        assert "ratelimit.deny" in config.given
        hash(config)
    many = [f"10.0.{number >> 8}.{number & 255}" for number in range(1000)]
    assert len(from_dict({"upstream": POOL, "ratelimit": {"allow": many}}).ratelimit.allow) == 1000
    with pytest.raises(ConfigError, match=r"ratelimit\.allow: found 1001, wants at most 1000"):
        from_dict({"upstream": POOL, "ratelimit": {"allow": [*many, "::1"]}})


# Values from code

def test_values_from_code_go_through_the_same_rules():
    with pytest.raises(ConfigError) as caught:
        from_dict({"upstream": {"host": "p", "port": "3333", "pas": 1, 5: 6},
                   "vardiff": {"enabled": 1, "min_diff": -1}})
    assert str(caught.value).splitlines() == [
        "<values>: 6 faults",
        "  upstream.pas: there is no such option; did you mean pass?",
        "  upstream: found something else than a text in the place of an option's name",
        '  upstream.port: found the text "3333", wants a whole number from 1 to 65535: write the number without quotes',
        "  upstream.user: missing, wants a text of one line, not empty",
        "  vardiff.enabled: found 1, wants true or false",
        "  vardiff.min_diff: found -1, wants a number from 1e-12 to 1e18",
    ]


def test_values_from_code_that_no_file_could_hold():
    loop = {}
    loop["upstream"] = loop
    for tree, words in (({"upstream": b"p"}, "found a bytes"), (loop, "nested deeper than 20 levels")):
        with pytest.raises(ConfigError, match=words):
            from_dict(tree)


def test_a_variable_in_values_from_code_stands_for_itself():
    assert from_dict({"upstream": {**POOL, "pass": "${HOME}"}}).upstream.password == "${HOME}"


def of_kind(kind):
    """Values that a kind allows."""
    words = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=30)
    return {
        File: lambda: words,
        Fingerprint: lambda: st.sampled_from(["", "ab" * 32]),
        Flag: st.booleans,
        Left: lambda: of_kind(kind.kind),
        Origin: lambda: st.sampled_from(["*", "https://a.example.org", "http://[::1]:80"]),
        PoolUrl: lambda: st.sampled_from(["", "stratum+tcp://pool.example.org:3333", "stratum+ssl://[fd00::1]:443"]),
        Whole: lambda: st.integers(kind.least, kind.most),
        Number: lambda: st.floats(kind.least, kind.most),
        AutoOr: lambda: st.just("auto") | of_kind(kind.kind),
        Choice: lambda: st.sampled_from(kind.choices),
        Hex: lambda: st.integers(0, 16 ** kind.digits - 1).map(lambda number: f"{number:0{kind.digits}x}"),
        Host: lambda: st.sampled_from(["pool.example.org", "10.0.0.1", "fd00::1"]),
        Listen: lambda: st.sampled_from([":0", "[::1]:3333", "localhost:80", "systemd:stratum"]),
        Listed: lambda: st.lists(of_kind(kind.item), max_size=5),
        Network: lambda: st.sampled_from(["10.0.0.0/8", "::1", "2001:db8::/32"]),
        Table: lambda: st.dictionaries(words, of_kind(kind.value), max_size=5).filter(
            lambda table: len({name.lower() for name in table}) == len(table)),
        Text: lambda: words,
        Token: lambda: st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=50),
    }[type(kind)]()


def of_section(cls):
    """Nested dicts with values that every option of the section allows."""
    always, sometimes = {}, {}
    for member in members(cls):
        if isinstance(member, Section):
            inner = of_section(member.cls)
            sometimes[member.name] = st.lists(inner, max_size=3) if member.many else inner
            if member.name == "upstream":
                always[member.name] = sometimes.pop(member.name)
        else:
            (always if member.required else sometimes)[member.name] = of_kind(member.kind)
    return st.fixed_dictionaries(always, optional=sometimes)


@settings(max_examples=60, deadline=None)
@given(of_section(Config))
def test_a_config_from_dict_comes_back_from_its_own_values_and_as_yaml_and_json(tree):
    try:
        config = from_dict(tree)
    except ConfigError as error:  # options that are each fine may still contradict one another
        kinds = ("below", "between", "contradicts", "without a", "without checked shares", "are the same",
                 "would not count", "the same address", "for TLS only", "without the", "remove one", "for WebSockets",
                 "is off", "the same name")
        assert all(any(kind in fault.sentence for kind in kinds) for fault in error.faults)
        return
    assert from_dict(as_dict(config)) == config
    for path, value in values(config).items():
        assert path not in config.given or value == lookup(tree, path) or not lookup(tree, path)
    escaped = json.dumps(as_dict(config)).replace("${", "$${")
    assert loads(escaped, {}) == config
    assert loads(json.dumps(as_dict(config), ensure_ascii=False, indent="\t").replace("${", "$${"), {}) == config


def lookup(tree, path):
    for step in path.replace("[", ".").replace("]", "").split("."):
        tree = tree[int(step)] if isinstance(tree, list) else tree[step]
    return tree


# Any text

PIECES = [
    "upstream", "host", "user", "pass", "vardiff", "min_diff", "proxy", "listen", "backups", ":", ": ", "- ", "\n",
    "\n  ", "\n    ", "\t", "{", "}", "[", "]", ",", '"', "'", "#", "&a", "*a", "!!int", "!", "|", ">", "%", "@",
    "?", "---", "...", "<<", "${", "${POOL}", "$${", "}", "1", "0", "1e-4", "null", "~", "yes", "\\u", "\\U0011",
    "é", "\x85", "\u2028", "\ufeff", "\r", "%YAML 9", "%TAG ! x",
]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join),
                 st.binary().map(lambda data: data.decode("latin-1"))))
def test_any_text_is_a_config_or_a_config_error(text):
    try:
        assert loads(text, ENVIRON).upstream.host
    except ConfigError as error:
        assert error.faults
        assert len(str(error).splitlines()) == 1 + len(error.faults)


def test_an_example_with_a_character_changed_is_a_config_or_a_config_error():
    rng = random.Random(3)
    whole = example()
    outcomes = set()
    for _ in range(150):
        at = rng.randrange(len(whole))
        text = whole[:at] + rng.choice(PIECES) + whole[at + rng.randrange(3):]
        try:
            outcomes.add(type(loads(text, ENVIRON)))
        except ConfigError as error:
            assert all(fault.line is not None for fault in error.faults)
            outcomes.add(ConfigError)
    assert outcomes == {Config, ConfigError}


# The example

def test_the_example_file_is_the_generated_one():
    assert EXAMPLE_FILE.read_bytes() == example().encode()


def test_the_example_gives_the_defaults():
    config = loads(example(), {})
    assert config == from_dict({"upstream": {"host": "pool.example.org", "user": "wallet.worker"}})
    wrong = [path for path, each, value in walk(config) if value != each.default and path != "upstream.name"]
    assert wrong == []


def test_the_example_shows_every_option():
    assert loads(example(), {}).given == set(values(loads(example(), {})))
    for _, option, _ in walk(loads(example(), {})):
        assert option.prose.endswith(".")


def test_the_example_means_the_same_to_other_readers_of_yaml():
    tree = yaml.safe_load(example())
    assert from_dict(tree) == loads(example(), {})


def test_the_backups_of_the_example_load_once_uncommented():
    lines = example().splitlines()
    start = lines.index("# backups:")
    end = lines.index("", start)
    lines[start:end] = [line.removeprefix("# ") for line in lines[start:end]]
    (backup,) = loads("\n".join(lines), {}).backups
    assert (backup.name, backup.host, backup.user) == ("backup", "backup.example.org", "wallet.worker")


def test_the_example_is_not_too_wide():
    assert max(map(len, example().splitlines())) <= 88
