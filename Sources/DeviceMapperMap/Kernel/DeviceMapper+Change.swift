// Making, switching and removing devices, with the order of steps that leaves no device suspended and none half made.

public import DiskTypes
import CQblk
import Glibc

/// A device to be made.
public struct DMDeviceSpec: Sendable {
    /// The device's name: one that `DMNaming.check` lets through.
    public var name: String
    /// Its UUID, at most 128 bytes.
    public var uuid: String
    /// Writes are refused.
    public var readOnly: Bool
    /// A building block of another device: no node, and udev shall not look for partitions or volumes on it.
    public var isInternal: Bool

    /// A device to be made.
    public init(name: String, uuid: String, readOnly: Bool, isInternal: Bool = false) {
        self.name = name
        self.uuid = uuid
        self.readOnly = readOnly
        self.isInternal = isInternal
    }
}

extension DeviceMapper {
    /// Makes a device of `count` targets; it can be opened by /dev/mapper/NAME on return (internal ones: by number).
    /// Nothing is left where it fails.
    public func create(
        _ spec: DMDeviceSpec, count: Int, target: (Int) -> DMTarget
    ) throws(ImageError) -> DMDeviceInfo {
        let what = "device-mapper cannot make \(spec.name)"
        let made = try alone(what) { () throws(DMFailure) -> DMDeviceInfo? in
            let task = try DMTask.make(DM_DEVICE_CREATE, name: spec.name)
            try unsafe task.need(dm_task_set_uuid(task.raw, spec.uuid))
            if spec.readOnly { try unsafe task.need(dm_task_set_ro(task.raw)) }
            try unsafe task.need(dm_task_set_add_node(task.raw, DM_ADD_NODE_ON_CREATE))
            try task.add(count, target)
            // One call, three steps: create, load, resume. The library removes the device if one of them fails.
            try DMUdev.run(task, spec.isInternal ? .hidden : .visible)
            return try look(name: spec.name)
        }
        guard let made else { throw ImageError(.system, "\(what): it vanished at once") }
        if !spec.isInternal {
            do {
                try DMNode.ensure(name: spec.name, number: made.number)
            } catch {
                _ = try? remove(name: spec.name)
                throw error
            }
        }
        return made
    }

    /// Removes a device. In use: an error, or with `deferred` it goes when its last user closes it.
    ///
    /// Udev's rules open a new device to look at it, so "in use" is asked again for up to `timeout` milliseconds.
    public func remove(name: String, deferred: Bool = false, timeout: Int = 1000) throws(ImageError) {
        var waited = 0
        while true {
            do {
                return try attempt { () throws(DMFailure) in
                    let task = try DMTask.make(DM_DEVICE_REMOVE, name: name)
                    if deferred { try unsafe task.need(dm_task_deferred_remove(task.raw)) }
                    try DMUdev.run(task, .visible)
                }
            } catch {
                guard error.errno == EBUSY, waited < timeout else {
                    throw DeviceMapper.error("device-mapper cannot remove \(name)", error)
                }
            }
            usleep(50_000)
            waited += 50
        }
    }

    /// Stages a table; the device goes on with the old one until `resume`.
    public func load(
        name: String, readOnly: Bool, count: Int, target: (Int) -> DMTarget
    ) throws(ImageError) {
        try alone("device-mapper cannot load a table for \(name)") { () throws(DMFailure) in
            let task = try DMTask.make(DM_DEVICE_RELOAD, name: name)
            if readOnly { try unsafe task.need(dm_task_set_ro(task.raw)) }
            try task.add(count, target)
            try task.run()
        }
    }

    /// Switches to the staged table (if any) and lets I/O go on, in one step of the kernel: suspend, swap, resume.
    ///
    /// The kernel checks a staged table against the devices' sizes only now. When it refuses, the device stays
    /// suspended and everybody who reads hangs for good; so the old table is resumed at once and the new one thrown
    /// away, before the caller hears of it.
    public func resume(name: String) throws(ImageError) {
        try alone("device-mapper cannot switch the table of \(name)") { () throws(DMFailure) in
            do throws(DMFailure) {
                try resumeOnce(name: name)
            } catch {
                try? resumeOnce(name: name)
                if let task = try? DMTask.make(DM_DEVICE_CLEAR, name: name) { try? task.run() }
                throw error
            }
        }
    }

    /// Holds new I/O back and waits for I/O in flight. Each call must be followed by a `resume`.
    public func suspend(name: String, flush: Bool = false) throws(ImageError) {
        try alone("device-mapper cannot suspend \(name)") { () throws(DMFailure) in
            let task = try DMTask.make(DM_DEVICE_SUSPEND, name: name)
            if !flush {
                try unsafe task.need(dm_task_no_flush(task.raw))
                try unsafe task.need(dm_task_skip_lockfs(task.raw))
            }
            try unsafe task.need(dm_task_no_open_count(task.raw))
            try task.run()
        }
    }

    private func resumeOnce(name: String) throws(DMFailure) {
        let task = try DMTask.make(DM_DEVICE_RESUME, name: name)
        try unsafe task.need(dm_task_no_flush(task.raw))
        try unsafe task.need(dm_task_skip_lockfs(task.raw))
        try unsafe task.need(dm_task_no_open_count(task.raw))
        try DMUdev.run(task, .visible)
    }
}
