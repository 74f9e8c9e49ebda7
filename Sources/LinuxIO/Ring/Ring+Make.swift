// Why an io_uring cannot be made, in words: the errno alone sends people to the wrong place. All that make rings say it the
// same way.
public import DiskTypes
import Glibc
public import SystemPackage

extension Ring {
    /// A ring for `entries` requests, as `init` makes it; what it throws says what to do.
    public static func make(entries: UInt32) throws(ImageError) -> Ring {
        do throws(Errno) { return try Ring(entries: entries) } catch { throw failure(error) }
    }

    /// What is said when `init` throws `error`.
    public static func failure(_ error: Errno) -> ImageError {
        ImageError(
            .system, "cannot make an io_uring: \(errorText(error.rawValue))", advice: advice(error),
            number: error.rawValue)
    }

    private static func advice(_ error: Errno) -> String {
        switch error {
        case .noMemory:
            // Kernels before 5.12 count rings against the limit on locked memory.
            "allow more locked memory (ulimit -l, LimitMEMLOCK=), or more memory where a cgroup limits it"
        case .notPermitted, .permissionDenied:
            "set /proc/sys/kernel/io_uring_disabled to 0, and allow io_uring in the seccomp filter of the container or service"
        case .noFunction:
            "use a kernel with io_uring (CONFIG_IO_URING), and allow it in the seccomp filter of the container"
        case .tooManyOpenFiles, .tooManyOpenFilesInSystem: "allow more open files (ulimit -n, LimitNOFILE=)"
        default: "see that the kernel has io_uring (Linux 5.15 or later) and that it is not forbidden"
        }
    }
}
