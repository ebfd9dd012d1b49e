use super::*;

fn contents() -> Contents {
    Contents {
        program: b"#!/bin/true\n".to_vec(),
        pages: ["forkscope.1", "forkscope-trace.1"]
            .map(|name| (name.to_owned(), format!(".TH {name}\n").into_bytes()))
            .to_vec(),
        bash: b"bash".to_vec(),
        zsh: b"zsh".to_vec(),
        fish: b"fish".to_vec(),
        third_party: b"others\n".to_vec(),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn commands_are_those_of_the_page() {
    let page = ".SH SUBCOMMANDS\n.TP\nforkscope\\-trace(1)\nStreams\n.TP\nforkscope\\-a\\-b(1)\n\
                .SH \"SEE ALSO\"\n\\fBforkscope\\-trace\\fR(1)\n";
    assert_eq!(commands(page), ["trace", "a-b"]);
}

#[test]
fn the_package_has_its_files_where_debian_looks() {
    let tree = debian::tree(&root(), &contents(), 0).unwrap();
    let mode = |path: &str| tree.files.get(path).map(|file| file.mode);
    assert_eq!(mode("usr/bin/forkscope"), Some(0o755));
    for path in [
        "etc/forkscope/filters",
        "usr/lib/systemd/system/forkscope.service",
        "usr/share/man/man1/forkscope.1.gz",
        "usr/share/man/man1/forkscope-trace.1.gz",
        "usr/share/bash-completion/completions/forkscope",
        "usr/share/zsh/vendor-completions/_forkscope",
        "usr/share/fish/vendor_completions.d/forkscope.fish",
        "usr/share/doc/forkscope/copyright",
        "usr/share/doc/forkscope/changelog.gz",
        "usr/share/doc/forkscope/changelog.Debian.gz",
        "usr/share/doc/forkscope/README.Debian",
        "usr/share/doc/forkscope/THIRD-PARTY.gz",
        "usr/share/doc/forkscope/examples/prometheus/alerts.rules.yml",
    ] {
        assert_eq!(mode(path), Some(0o644), "{path}");
    }
    let unit = &tree.files["usr/lib/systemd/system/forkscope.service"].bytes;
    let unit = String::from_utf8_lossy(unit);
    let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    assert!(start.starts_with("ExecStart=/usr/bin/forkscope serve "), "{start}");
    assert!(start.contains(" --filters /etc/forkscope/filters"), "{start}");
    let copyright = &tree.files["usr/share/doc/forkscope/copyright"].bytes;
    let copyright = String::from_utf8_lossy(copyright);
    assert!(copyright.contains("\nLicense: MIT\n Permission is hereby granted"), "{copyright}");
}

#[test]
fn the_same_contents_make_the_same_bytes() {
    for tool in ["dpkg-deb", "tar", "gzip", "md5sum"] {
        if !apt::has(tool) {
            println!("skipped: no {tool}");
            return;
        }
    }
    let folder = env::temp_dir().join(format!("forkscope-dist-{}", std::process::id()));
    let sums: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| {
            let out = folder.join(name);
            fs::create_dir_all(&out).unwrap();
            let made = make(&root(), &contents(), &out, 1_700_000_000).unwrap();
            assert_eq!(made.files.len(), 4);
            let listed = output(Command::new("dpkg-deb").arg("--contents").arg(&made.package));
            let listed = String::from_utf8(listed.unwrap()).unwrap();
            assert!(listed.lines().all(|line| line.contains(" root/root ")), "{listed}");
            assert!(listed.contains("2023-11-14 22:13 ./usr/bin/forkscope\n"), "{listed}");
            fs::read_to_string(out.join("SHA256SUMS")).unwrap()
        })
        .collect();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(sums[0], sums[1]);
    assert_eq!(sums[0].lines().count(), 3, "{}", sums[0]);
}

#[test]
fn what_is_published_can_be_built() {
    let list = |package: &str| {
        let said = output(crate::cargo::cargo().current_dir(root()).args([
            "package",
            "--offline",
            "--list",
            "--allow-dirty",
            "--package",
            package,
        ]));
        String::from_utf8(said.unwrap()).unwrap()
    };
    let of_all = ["LICENSE-APACHE", "LICENSE-MIT", "src/lib.rs"];
    let of_program = [
        "README.md",
        "build.rs",
        "build/object.rs",
        "prebuilt/forkscope.bpf.o",
        "prebuilt/manifest.json",
        "schema/forkscope.schema.json",
        "src/main.rs",
    ];
    for (package, more) in [("forkscope-common", &[][..]), ("forkscope", &of_program)] {
        let list = list(package);
        for file in of_all.iter().chain(more) {
            assert!(list.lines().any(|line| line == *file), "{package} lacks {file}: {list}");
        }
    }
}
