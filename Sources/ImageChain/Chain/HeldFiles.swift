// The files of a chain, held open for a later opening of the same image, here or in another process. It has to be the
// same image, whatever became of the names of its files meanwhile; so the descriptors are kept, which hold no locks.
import Glibc
public import DiskTypes
public import LinuxIO

/// The files of a chain, kept open after the chain is closed.
public final class HeldFiles: Sendable {
    /// One descriptor: noncopyable values cannot be in arrays.
    private final class Holder: Sendable {
        let owned: OwnedFD
        init(taking raw: Int32) { owned = OwnedFD(taking: raw) }
    }

    /// For `OpenOptions.files`, as long as this object lives.
    public var files: [OpenedFile] {
        zip(holders, known).map { OpenedFile(descriptor: $0.owned.raw, known: $1) }
    }
    /// What each file must be when it is opened again, in the order of `files`.
    public let known: [KnownFile]
    private let holders: [Holder]

    /// `writable`: the chain that is opened later is written, so that the length of its image and data file says nothing.
    public init(_ chain: ImageChain, writable: Bool) throws(ImageError) {
        var known = chain.knownFiles
        if writable, let top = chain.layers.first {
            for index in [top.metadataFile, top.dataFile] { known[Int(index)].length = nil }
        }
        self.known = known
        holders = try chain.files.map { file throws(ImageError) in
            // Not a duplicate: that would share the chain's locks, and hold them after the chain is closed.
            let copy = unsafe Glibc.open("/proc/self/fd/\(file.fd)", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
            guard copy >= 0 else {
                throw ImageError(.system, "cannot be kept open: \(errorText(errno))", path: file.path, number: errno)
            }
            return Holder(taking: copy)
        }
    }

    /// Takes over descriptors that this process was started with: `known.count` of them, from `first` on.
    public init(inherited known: [KnownFile], from first: Int32) {
        self.known = known
        holders = known.indices.map { index in
            let raw = first + Int32(index)
            _ = fcntl(raw, F_SETFD, FD_CLOEXEC)
            return Holder(taking: raw)
        }
    }

    /// How to hand the descriptors to a child that takes them over `from: first`.
    public func inheritances(from first: Int32) -> [ChildProcess.Inheritance] {
        holders.enumerated().map { ChildProcess.Inheritance(fd: $1.owned.raw, as: first + Int32($0)) }
    }
}
