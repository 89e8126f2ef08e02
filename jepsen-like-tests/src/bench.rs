//! What benches have in common: figures, what the machine says of itself, and etcd beside us.

pub mod etcd;
pub mod figures;
pub mod grpc;
pub mod machine;
