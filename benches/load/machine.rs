//! CPU time and memory of processes, from `/proc`; zero where there is none.

/// Clock ticks a second, as Linux tells user space on every platform it runs on.
const TICKS: f64 = 100.0;

/// CPU-seconds so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub service: f64,
    pub broker: f64,
    pub database: f64,
    /// Of the whole machine less this process.
    pub all_but_us: f64,
}

impl Cpu {
    /// Reads them all, close together.
    pub fn now(service: u32) -> Self {
        let mut cpu =
            Self { all_but_us: machine() - of(std::process::id()), service: of(service), ..Self::default() };
        for (pid, name) in processes() {
            match name.as_str() {
                "beam.smp" => cpu.broker += of(pid),
                "postgres" => cpu.database += of(pid),
                _ => {}
            }
        }
        cpu
    }

    /// What was spent since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            service: self.service - before.service,
            broker: self.broker - before.broker,
            database: self.database - before.database,
            all_but_us: self.all_but_us - before.all_but_us,
        }
    }
}

/// The most memory a process has had, in MiB.
pub fn peak_mib(pid: u32) -> f64 {
    status_mib(pid, "VmHWM:")
}

/// The memory a process has now, in MiB.
pub fn resident_mib(pid: u32) -> f64 {
    status_mib(pid, "VmRSS:")
}

fn status_mib(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// User and system time of the machine: neither idle nor waiting nor stolen.
fn machine() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8).enumerate();
    let busy =
        fields.filter(|(i, _)| ![3, 4, 7].contains(i)).filter_map(|(_, field)| field.parse::<f64>().ok());
    busy.sum::<f64>() / TICKS
}

fn of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS
}

fn processes() -> Vec<(u32, String)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, std::fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned()))
        })
        .collect()
}
