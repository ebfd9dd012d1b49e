//! A terminal for `top`: a shell in a tmux of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use forkscope_tests::Rig;

/// See the module.
pub struct Terminal<'a> {
    rig: &'a Rig,
    dir: PathBuf,
    socket: PathBuf,
}

impl<'a> Terminal<'a> {
    /// Of this size; `environment` is one more variable.
    pub fn new(rig: &'a Rig, width: u16, height: u16, environment: &str) -> Self {
        let dir = rig.fresh("terminal");
        fs::create_dir_all(&dir).expect("a folder");
        let socket = dir.join("tmux");
        let terminal = Self { rig, dir, socket };
        let (width, height) = (width.to_string(), height.to_string());
        let mut tmux = terminal.tmux();
        tmux.args(["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, "-c"])
            .arg(&terminal.dir)
            .args(["env", "-u", "NO_COLOR", "TERM=screen", "PS1=$ "]);
        if !environment.is_empty() {
            tmux.arg(environment);
        }
        // Job control is a part of what is tested.
        tmux.args(["sh", "-i"]);
        rig.run(tmux).expect_code(0);
        terminal.until("a shell", |screen| screen.contains('$'));
        terminal
    }

    fn tmux(&self) -> Command {
        // By its path: looking for it would fail in other places, which is seen.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).map(|dir| dir.join("tmux"));
        let mut tmux = Command::new(places.find(|tmux| tmux.is_file()).expect("tmux"));
        tmux.env_remove("TMUX").env("LC_ALL", "C.UTF-8").arg("-u").arg("-S").arg(&self.socket);
        tmux
    }

    /// Where its shell is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs `top`, with the terminal's settings before and after, and its exit code.
    pub fn run_top(&self, arguments: &str) {
        let program = self.rig.forkscope().display();
        let script = format!("{program} top {arguments}\n");
        fs::write(self.dir.join("script"), script).expect("a file");
        let line = "stty -a > before; . ./script; echo $? > code; stty -a > after; mv after done";
        self.keys(&[line, "Enter"]);
    }

    /// Sends keys, by tmux's names.
    pub fn keys(&self, keys: &[&str]) {
        let mut tmux = self.tmux();
        tmux.arg("send-keys").args(keys);
        self.rig.run(tmux).expect_code(0);
        // A lone Escape is no beginning of another key.
        thread::sleep(Duration::from_millis(100));
    }

    fn ask(&self, words: &[&str]) -> String {
        let mut tmux = self.tmux();
        tmux.args(words);
        self.rig.run(tmux).expect_code(0).stdout()
    }

    /// What it shows.
    pub fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// The same with colours.
    pub fn styled(&self) -> String {
        self.ask(&["capture-pane", "-p", "-e"])
    }

    /// What a program may set.
    pub fn title(&self) -> String {
        self.ask(&["display-message", "-p", "#{pane_title}|#{window_name}"])
    }

    /// Waits until it shows something.
    #[track_caller]
    pub fn until(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let begin = Instant::now();
        loop {
            let screen = self.screen();
            if condition(&screen) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{what}: never in\n{screen}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Takes the terminal away.
    pub fn close(&self) {
        let _ = self.ask(&["kill-server"]);
    }

    /// The pid of `top`.
    pub fn top(&self) -> u64 {
        let shell: u64 = self
            .ask(&["display-message", "-p", "#{pane_pid}"])
            .trim()
            .parse()
            .expect("the shell's pid");
        forkscope_tests::children(shell)[0]
    }

    /// It ends with this code, and the terminal is as it was.
    #[track_caller]
    pub fn expect_as_before(&self, code: i32) {
        let done = self.dir.join("done");
        self.until("the end", |_| done.exists());
        let read =
            |name: &str| fs::read_to_string(self.dir.join(name)).expect("the shell wrote it");
        assert_eq!(read("code").trim(), code.to_string(), "{}", self.screen());
        assert_eq!(read("before"), read("done"));
        // The other screen has gone, and the cursor is back.
        let state = self.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(state.trim(), "0 1");
        let screen = self.screen();
        assert!(screen.contains("stty -a"), "{screen}");
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let mut tmux = self.tmux();
        tmux.arg("kill-server");
        let _ = self.rig.run(tmux);
    }
}
