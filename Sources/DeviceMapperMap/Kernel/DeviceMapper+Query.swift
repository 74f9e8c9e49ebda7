// What device-mapper says about itself and its devices. Nothing here changes anything.

public import DiskTypes
import CQblk
import Glibc

/// What this kernel's device-mapper offers.
public struct DMCapability: Equatable, Sendable {
    /// Version of libdevmapper, as `1.02.185 (2022-05-18)`.
    public let library: String
    /// Version of the kernel's driver, as `4.48.0`.
    public let driver: String
    /// Version of each target that maps need or may use; a target that the kernel lacks is missing.
    public let targets: [String: String]
}

extension DeviceMapper {
    /// The targets that maps are made of. `error` is part of device-mapper itself.
    public static let neededTargets = ["linear", "zero", "error"]

    /// Version of libdevmapper, known without a kernel side; empty where it cannot be had.
    public var libraryVersion: String {
        (try? attempt { () throws(DMFailure) in unsafe version { unsafe dm_get_library_version($0, $1) } ?? "" }) ?? ""
    }

    /// What is there, or the error that says why nothing is.
    public func capability() throws(ImageError) -> DMCapability {
        try alone("this kernel offers no device-mapper") { () throws(DMFailure) in
            DMLog.clear()
            guard let driver = unsafe version({ unsafe dm_driver_version($0, $1) }) else {
                throw DMFailure(errno: 0, log: DMLog.text)
            }
            var targets: [String: String] = [:]
            for name in DeviceMapper.neededTargets { targets[name] = targetVersion(name) }
            let library = unsafe version { unsafe dm_get_library_version($0, $1) } ?? ""
            return DMCapability(library: library, driver: driver, targets: targets)
        }
    }

    /// Device `name`, or nil where there is none.
    public func info(name: String) throws(ImageError) -> DMDeviceInfo? {
        try alone("device-mapper cannot look up \(name)") { () throws(DMFailure) in try look(name: name) }
    }

    /// The devices whose UUID begins with `prefix`.
    public func devices(uuidPrefix prefix: String) throws(ImageError) -> [DMDeviceInfo] {
        try alone("device-mapper cannot list its devices") { () throws(DMFailure) in
            var found: [DMDeviceInfo] = []
            for name in try names() {
                // A device may vanish between the two calls.
                guard let device = try look(name: name), device.uuid.hasPrefix(prefix) else { continue }
                found.append(device)
            }
            return found
        }
    }

    /// The table that `name` runs on, as the kernel prints it. Slow for large tables: for tests and for people.
    public func table(name: String) throws(ImageError) -> [DMTarget] {
        try alone("device-mapper cannot read the table of \(name)") { () throws(DMFailure) in
            let task = try DMTask.make(DM_DEVICE_TABLE, name: name)
            try unsafe task.need(dm_task_no_open_count(task.raw))
            try task.run()
            var lines: [DMTarget] = []
            var next: UnsafeMutableRawPointer?
            repeat {
                var (start, length): (UInt64, UInt64) = (0, 0)
                var (type, parameters): (UnsafeMutablePointer<CChar>?, UnsafeMutablePointer<CChar>?) = (nil, nil)
                unsafe next = unsafe dm_get_next_target(task.raw, next, &start, &length, &type, &parameters)
                guard let type = unsafe type else { break }
                unsafe lines.append(
                    DMTarget(
                        start: start, length: length, type: String(cString: type),
                        parameters: parameters.map { unsafe String(cString: $0) } ?? ""))
            } while unsafe next != nil
            return lines
        }
    }

    // MARK: - inside the turn

    /// INFO with the open count, which maps need to know whether a device is in use.
    func look(name: String) throws(DMFailure) -> DMDeviceInfo? {
        let task = try DMTask.make(DM_DEVICE_INFO, name: name)
        do {
            try task.run()
        } catch  where error.errno == ENXIO {
            return nil
        }
        let info = try task.info()
        guard info.exists != 0 else { return nil }
        return unsafe DMDeviceInfo(
            name: name, uuid: dm_task_get_uuid(task.raw).map { unsafe String(cString: $0) } ?? "",
            number: DeviceNumber(major: info.major, minor: info.minor), openCount: Int(info.open_count),
            targets: Int(info.target_count), readOnly: info.read_only != 0, suspended: info.suspended != 0,
            hasTable: info.live_table != 0, hasStagedTable: info.inactive_table != 0,
            deferredRemove: info.deferred_remove != 0)
    }

    private func names() throws(DMFailure) -> [String] {
        let task = try DMTask.make(DM_DEVICE_LIST)
        try task.run()
        guard var entry = unsafe dm_task_get_names(task.raw), unsafe entry.pointee.dev != 0 else { return [] }
        var names: [String] = []
        while true {
            // The name follows the entry's fixed part: 64-bit device, 32-bit distance to the next entry.
            let bytes = UnsafeRawPointer(entry)
            unsafe names.append(String(cString: (bytes + 12).assumingMemoryBound(to: CChar.self)))
            guard unsafe entry.pointee.next != 0 else { return names }
            unsafe entry = unsafe UnsafeMutableRawPointer(mutating: bytes + Int(entry.pointee.next))
                .assumingMemoryBound(to: dm_names.self)
        }
    }

    /// Asking for a target's version loads its module where it is one.
    private func targetVersion(_ name: String) -> String? {
        guard let task = try? DMTask.make(DM_DEVICE_GET_TARGET_VERSION, name: name), (try? task.run()) != nil,
            let answer = unsafe dm_task_get_versions(task.raw)
        else { return nil }
        let v = unsafe answer.pointee.version
        return "\(v.0).\(v.1).\(v.2)"
    }

    private func version(_ call: (UnsafeMutablePointer<CChar>?, Int) -> Int32) -> String? {
        unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
            unsafe buffer.initialize(repeating: 0)
            guard unsafe call(buffer.baseAddress, 64) == 1, let text = buffer.baseAddress else { return nil }
            return unsafe String(cString: text)
        }
    }
}
