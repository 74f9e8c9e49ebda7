// Plugging a disk in takes several processes and some seconds, and any of them may be killed at any moment. A folder
// a disk, with a lock that its holder's death gives back, lets the next `qblk` tell what is being made from what was
// left behind.
public import DiskTypes
import LinuxIO
public import SystemPackage

/// The disks in running VMs: a folder each, beside the maps and out of their way.
public struct AttachmentRegistry: Sendable {
    /// Where the disks' folders are: `.attached` in the folder of maps.
    public let folder: FilePath

    /// `registry`: whose neighbour it is.
    public init(_ registry: MapRegistry = MapRegistry()) { folder = registry.folder.appending(".attached") }
    /// `folder`: of a registry made before.
    public init(folder: FilePath) { self.folder = folder }

    /// The keys of all folders: with a record, being made, or left behind.
    public func keys() throws(ImageError) -> [String] {
        try RegistryFiles.names(in: folder).filter { !$0.hasPrefix(".") }
    }

    /// The folder of one disk: its record, its lock, its server's socket.
    public func folder(of key: String) -> FilePath { folder.appending(key) }
    private func statePath(_ key: String) -> FilePath { folder(of: key).appending("state.json") }

    /// The disk's record; nil where there is none (yet). `.malformed` where the file is not a record, `.system` where
    /// it cannot be read.
    public func record(_ key: String) throws(ImageError) -> AttachmentRecord? {
        guard let bytes = try RegistryFiles.read(statePath(key)) else { return nil }
        guard let record = RecordCoding.decode(AttachmentRecord.self, bytes) else {
            throw ImageError(
                .malformed, "\(statePath(key)) is not a record of a disk in a VM",
                advice: "unplug what it describes by hand, then remove \(folder(of: key))")
        }
        return record
    }

    /// Every record there is.
    public func all() throws(ImageError) -> [AttachmentRecord] {
        var records: [AttachmentRecord] = []
        for key in try keys() {
            if let record = try record(key) { records.append(record) }
        }
        return records
    }

    /// Writes a record. For the process that made it or serves it.
    public func write(_ record: AttachmentRecord, _ key: String) throws(ImageError) {
        guard let bytes = RecordCoding.record(record) else {
            throw ImageError(.system, "cannot write down the disk '\(record.id)'")
        }
        try RegistryFiles.write(bytes, to: statePath(key))
    }

    /// Removes a folder with everything in it. What it described must be gone.
    public func remove(_ key: String) throws(ImageError) { try RegistryFiles.removeFolder(folder(of: key)) }

    /// Makes the folder of a new disk and holds its lock. Ids are a VM's own; another VM may have the same.
    public func create(_ id: String) throws(ImageError) -> AttachmentLock {
        try RegistryFiles.makeFolder(folder.parent)
        try RegistryFiles.makeFolder(folder)
        guard let global = try FileLock(folder.appending(".lock"), timeout: 10_000) else {
            throw busy("the list of disks")
        }
        let taken = Set(try keys())
        var key = id
        var number = 2
        while taken.contains(key) {
            key = "\(id).\(number)"
            number += 1
        }
        try RegistryFiles.makeFolder(folder(of: key))
        guard let lock = try FileLock(folder(of: key).appending("lock"), timeout: 0) else { throw busy("'\(key)'") }
        _ = consume global
        return AttachmentLock(key: key, lock: lock)
    }

    /// The right to change a disk that is there; nil while another process has it for `timeout` milliseconds, or when
    /// the disk has gone.
    public func lock(_ key: String, timeout: Int = 0) throws(ImageError) -> AttachmentLock? {
        guard Filesystem.isDirectory(folder(of: key)) else { return nil }
        do throws(ImageError) {
            guard let lock = try FileLock(folder(of: key).appending("lock"), timeout: timeout) else { return nil }
            return AttachmentLock(key: key, lock: lock)
        } catch {
            if !Filesystem.isDirectory(folder(of: key)) { return nil }
            throw error
        }
    }

    private func busy(_ what: String) -> ImageError {
        ImageError(.locked, "another qblk is working on \(what)", advice: "try again when it is done")
    }
}

/// The right to plug one disk in or out; the kernel gives it up when the process dies.
public struct AttachmentLock: ~Copyable {
    /// The name of the disk's folder.
    public let key: String
    private let lock: FileLock

    init(key: String, lock: consuming FileLock) {
        self.key = key
        self.lock = lock
    }
}
