// Why this file exists: after a crash a record may describe what is no longer there. Telling the living from the dead
// needs no cooperation from either: the kernel's own lists say.
public import DiskTypes
import Glibc

/// What is left of a map.
public enum MapHealth: Sendable {
    /// Everything the record names is there.
    case alive
    /// The device is there but a process that belongs to it is not: usable perhaps, not to be relied upon.
    case crippled
    /// The device is gone.
    case dead
}

extension MapRecord {
    /// What is left of the map now.
    public var health: MapHealth {
        guard isDeviceThere else { return .dead }
        for process in [server, supervisor] {
            if let process, !process.isAlive { return .crippled }
        }
        return .alive
    }

    private var isDeviceThere: Bool {
        if how == .loop {
            guard let number = loops.first else { return false }
            return MapRecord.backingFile(ofLoop: number) == (mountPoint ?? image)
        }
        var there = stat()
        return stat(device, &there) == 0 && there.st_mode & S_IFMT == S_IFBLK
    }

    /// The file behind /dev/loopN as the kernel names it; nil when the loop device is free.
    public static func backingFile(ofLoop number: Int32) -> String? {
        guard let bytes = try? RegistryFiles.read("/sys/block/loop\(number)/loop/backing_file") else { return nil }
        var path = String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
        let deleted = " (deleted)"
        if path.hasSuffix(deleted) { path.removeLast(deleted.count) }
        return path
    }
}

extension MapRegistry {
    /// Records of maps that a crash left behind, wholly or in part. Taking them down is the business of who made them.
    public func staleRecords() throws(ImageError) -> [MapRecord] {
        try all().filter { $0.health != .alive }
    }

    /// Removes folders of maps that died before they had a record.
    public func sweep() throws(ImageError) {
        for name in try names() where try record(of: name) == nil {
            guard let lock = try FileLock(lockPath(name), patience: 0) else { continue }
            if try record(of: name) == nil { try RegistryFiles.removeFolder(folder(of: name)) }
            _ = consume lock
        }
    }
}
