// The files of a chain as they are handed from process to process: descriptors, with what each must be. A server that
// follows a killed one must read and write the very files that the first one had, whatever became of their names
// meanwhile.

public import LinuxIO

/// What a file of a chain was when the chain was opened first.
public struct KnownFile: Hashable, Sendable, Codable {
    /// Device and inode, as in `FileIdentity`.
    public var device: UInt64
    /// See `device`.
    public var inode: UInt64
    /// Bytes of a file that is only read: it may not be shorter later, and what it is longer does not count. Nil: it is
    /// written, and grows.
    public var length: UInt64?
    /// The format of a layer, found by probing or named by the overlay; nil for an external data file.
    public var format: ImageFormat?

    /// The file of that identity. `length` in bytes, nil for a file that is written; `format` nil for a data file.
    public init(_ identity: FileIdentity, length: UInt64?, format: ImageFormat?) {
        device = identity.device
        inode = identity.inode
        self.length = length
        self.format = format
    }

    /// Device and inode.
    public var identity: FileIdentity { FileIdentity(device: device, inode: inode) }
}

/// A file of a chain that is open already.
public struct OpenedFile: Sendable {
    /// The descriptor stays the caller's, and can be closed after `ImageChain.open`.
    public var descriptor: Int32
    /// What the file must be, or the chain is not opened.
    public var known: KnownFile

    /// An open descriptor, and what its file must be.
    public init(descriptor: Int32, known: KnownFile) {
        self.descriptor = descriptor
        self.known = known
    }

    /// How a chain takes over files that are open already.
    public enum Use: Sendable {
        /// Opens each anew through /proc/self/fd: the same file, with an open file description (and so locks) of its own.
        case reopen
        /// Goes on with the same open file descriptions, and with the locks that are held on them.
        case share
    }
}

extension ImageChain {
    /// What a later opening of the same files (`OpenOptions.files`) must find; in the order of `files`.
    public var knownFiles: [KnownFile] {
        files.enumerated().map { index, file in
            let layer = layers.first { Int($0.metadataFile) == index }
            return KnownFile(file.identity, length: file.isWritable ? nil : file.length, format: layer?.format)
        }
    }

    /// The files as they are open here, for handing them on.
    public var openedFiles: [OpenedFile] {
        zip(files, knownFiles).map { OpenedFile(descriptor: $0.fd, known: $1) }
    }
}
