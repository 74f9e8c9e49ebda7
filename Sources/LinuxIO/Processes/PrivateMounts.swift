// A process that serves a block device must not be the last to see a file system on that device: at its end the kernel
// would take that mount down, and wait for the server that is ending. So it sees no mounts at all.
import CQblk
import Glibc
public import SystemPackage

/// A mount namespace of this process alone. What is done to it is seen by no other process.
public struct PrivateMounts: Sendable {
    /// Leaves the namespace that the process was started in. Before the process makes its first thread: each thread has a
    /// namespace, which those that it makes share. Needs CAP_SYS_ADMIN.
    public init() throws(Errno) {
        try check(qb_unshare_mounts())
        // From now on nothing may reach the namespace that was left: this must have worked before anything is unmounted.
        try unsafe check(Glibc.mount("none", "/", nil, UInt(MS_REC) | UInt(MS_PRIVATE), nil))
    }

    /// Takes all mounts out of the namespace. Open files stay open; by a path nothing is reached any more.
    public func detachAll() throws(Errno) {
        try unsafe check(umount2("/", Int32(QB_MNT_DETACH)))
    }
}
