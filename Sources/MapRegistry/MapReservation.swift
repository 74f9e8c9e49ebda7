// Two `qblk` must not make or take down one map at the same time. The holder of this value is the only one at work on
// that map; the kernel gives it up if the process dies.
public import DiskTypes
import Synchronization
public import SystemPackage

/// The right to make or take down one map.
public struct MapReservation: ~Copyable {
    /// Where the map is or will be recorded.
    public let registry: MapRegistry
    /// The map's name.
    public let name: String
    private let lock: LockHolder

    init(registry: MapRegistry, name: String, lock: consuming FileLock) {
        self.registry = registry
        self.name = name
        self.lock = LockHolder(lock)
    }

    /// The map's folder.
    public var folder: FilePath { registry.folder(of: name) }

    /// Writes or rewrites the record.
    public borrowing func write(_ record: MapRecord) throws(ImageError) { try registry.write(record) }

    /// Gives up the right: the map is made, and may be taken down by others.
    public borrowing func release() { lock.release() }
    /// `release`, for closures, which cannot capture a reservation.
    public var releasing: @Sendable () -> Void { lock.release }

    /// Removes the folder and the record, and gives the name back.
    public consuming func remove() throws(ImageError) { try registry.remove(name) }
}

extension MapRegistry {
    /// Writes a map's record. For the process that made the map or serves it; others hold a reservation.
    public func write(_ record: MapRecord) throws(ImageError) {
        guard let bytes = RecordCoding.record(record) else {
            throw ImageError(.system, "cannot write down the map '\(record.name)'")
        }
        try RegistryFiles.write(bytes, to: statePath(record.name))
    }
}

/// The lock, until it is dropped or let go.
private final class LockHolder: Sendable {
    private let lock: Mutex<FileLock?>
    init(_ lock: consuming FileLock) { self.lock = Mutex(lock) }
    @Sendable func release() { lock.withLock { $0 = nil } }
}
