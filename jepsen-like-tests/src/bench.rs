//! What benches have in common: what they are asked, figures, what the machine says of itself, and etcd
//! beside us.

pub mod etcd;
pub mod figures;
pub mod grpc;
pub mod machine;

use std::path::PathBuf;

/// What every bench can be asked.
#[derive(Clone, Debug, clap::Args)]
pub struct Asked {
    /// One JSON object instead of tables
    #[arg(long)]
    pub json: bool,
    /// Do not compare
    #[arg(long)]
    pub without_etcd: bool,
    /// Where the nodes keep their data: the disk that is measured [default: a new directory for
    /// temporary files, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}
