// Which images are mapped on this host, known after the shell that mapped them is gone. A folder a map under
// /run/qblk, gone with the map or with a reboot.
public import DiskTypes
import Glibc
public import LinuxIO
public import SystemPackage

/// The maps of this host.
public struct MapRegistry: Sendable {
    /// Where the maps' folders are: `/run/qblk`, or what QBLK_RUN_DIR says.
    public let folder: FilePath

    /// `folder`: nil for the one of this host, which the environment variable QBLK_RUN_DIR may name.
    public init(folder: FilePath? = nil) {
        if let folder {
            self.folder = folder
        } else if let named = unsafe getenv("QBLK_RUN_DIR"), unsafe named.pointee != 0 {
            self.folder = unsafe FilePath(platformString: named)
        } else {
            self.folder = "/run/qblk"
        }
    }

    /// The folder of one map: its record, its lock, the file that FUSE is mounted on.
    public func folder(of name: String) -> FilePath { folder.appending(name) }
    func statePath(_ name: String) -> FilePath { folder(of: name).appending("state.json") }
    func lockPath(_ name: String) -> FilePath { folder(of: name).appending("lock") }

    // MARK: asking

    /// Every map with a record, sorted by name. Maps that are being made have none yet.
    public func all() throws(ImageError) -> [MapRecord] {
        var records: [MapRecord] = []
        for name in try names() {
            if let record = try record(of: name) { records.append(record) }
        }
        return records
    }

    /// The record of the map called `name`, if it is there.
    public func record(of name: String) throws(ImageError) -> MapRecord? {
        let path = statePath(name)
        guard let bytes = try RegistryFiles.read(path) else { return nil }
        guard let record = RecordCoding.decode(MapRecord.self, bytes) else {
            throw ImageError(
                .malformed, "\(path) is not a record of a map",
                advice:
                    "take down what it describes by hand (losetup, dmsetup, umount), then remove \(folder(of: name))")
        }
        return record
    }

    /// The map that the user means by a name, a device or an image. nil when there is none.
    public func find(_ key: FilePath) throws(ImageError) -> MapRecord? {
        let records = try all()
        if let named = records.first(where: { FilePath($0.name) == key }) { return named }
        let path = key.realOrAbsolute
        if let device = records.first(where: { [key, path].contains(FilePath($0.device)) }) { return device }
        let images = records.filter { Filesystem.exists(path) ? $0.isImage(path) : $0.image == path || $0.image == key }
        guard images.count < 2 else {
            let names = images.map(\.name).joined(separator: ", ")
            throw ImageError(.reference, "\(key) is mapped \(images.count) times", advice: "say which one: \(names)")
        }
        return images.first
    }

    func names() throws(ImageError) -> [String] {
        try RegistryFiles.names(in: folder).filter { !$0.hasPrefix(".") }
    }

    // MARK: changing

    /// Makes the folder of a new map and holds its lock. Refuses a name in use; what a crashed map left behind must have
    /// been cleaned up before (`staleRecords`), except for folders without a record, which are removed here.
    public func create(_ name: String) throws(ImageError) -> MapReservation {
        guard let reservation = try createIfFree(name) else { throw busy("'\(name)'") }
        return reservation
    }

    /// Nil while another process makes or takes down a map of that name.
    private func createIfFree(_ name: String) throws(ImageError) -> MapReservation? {
        try MapName.check(name)
        try RegistryFiles.makeFolder(folder)
        guard let global = try FileLock(folder.appending(".lock"), timeout: 10_000) else {
            throw busy("the list of maps")
        }
        if let record = try record(of: name) {
            throw ImageError(
                .reference, "a map named '\(name)' is there already (\(record.image) on \(record.device))",
                advice: "unmap it first, or choose another name with --name")
        }
        try RegistryFiles.makeFolder(folder(of: name))
        guard let lock = try FileLock(lockPath(name), timeout: 0) else { return nil }
        _ = consume global
        return MapReservation(registry: self, name: name, lock: lock)
    }

    /// The same for a map that the user gave no name: `suggested`, or where a map of another file than `image` has that,
    /// the first of `suggested-2`, `suggested-3` ... that is free. A second map of the same file is refused as `create`
    /// refuses it.
    public func create(suggested: String, for image: FileIdentity) throws(ImageError) -> MapReservation {
        var name = suggested
        for number in 2...1000 {
            let record = try record(of: name)
            if let record, record.imageIdentity.map({ $0 == image }) ?? true { return try create(name) }
            // Nil: being made by another process, of whatever file.
            if record == nil, let reservation = try createIfFree(name) { return reservation }
            name = MapName.numbered(suggested, number)
        }
        return try create(suggested)
    }

    /// Takes the lock of a map that is there, for taking it down.
    public func lock(_ name: String) throws(ImageError) -> MapReservation {
        guard let lock = try FileLock(lockPath(name), timeout: 5_000) else { throw busy("'\(name)'") }
        return MapReservation(registry: self, name: name, lock: lock)
    }

    /// Removes a map's record and folder. What it described must be gone.
    public func remove(_ name: String) throws(ImageError) {
        try RegistryFiles.removeFolder(folder(of: name))
    }

    private func busy(_ what: String) -> ImageError {
        ImageError(.locked, "another qblk is working on \(what)", advice: "try again when it is done")
    }
}
