// What `doctor` finds out about the machine: each way to a block device, whether the machine has it, and what would
// bring it.

import DeviceMapperMap
import DiskTypes
import Glibc
import LinuxIO
import SystemPackage

/// The ways to block devices that this machine has.
struct Machine {
    enum State: String {
        case yes
        /// A module of this kernel has it, and is not loaded.
        case loadable
        case no
    }
    struct Finding {
        let name: String
        let state: State
        var detail = ""
    }

    let kernel: String
    let findings: [Finding]
    let deviceMapper = DMCapabilities()
    private let version: (Int, Int)

    init() {
        kernel = KernelModules.release
        version = KernelModules.version
        let modules = KernelModules()
        let recent = version >= (6, 9)
        findings = [
            Self.deviceMapperFinding(deviceMapper, modules),
            Self.node("loop", "/dev/loop-control", "loop", modules),
            Self.node("fuse", "/dev/fuse", "fuse", modules),
            Finding(name: "fuse-passthrough", state: recent ? .yes : .no, detail: "since Linux 6.9"),
            Finding(
                name: "fuse-resend", state: recent ? .yes : .no, detail: "since Linux 6.9: a server may be replaced"),
            Self.ring(),
            Self.node("ublk", "/dev/ublk-control", "ublk_drv", modules),
            Self.node("vhost-scsi", "/dev/vhost-scsi", "vhost_scsi", modules),
            Self.node("vduse", "/dev/vduse/control", "vduse", modules),
            Finding(
                name: "root", state: Privileges.obstacleToDevices == nil ? .yes : .no,
                detail: Privileges.obstacleToDevices ?? ""),
            Self.memoryLock(),
        ]
    }

    /// The choice itself, or why it is not possible on this machine. `isPlain`: the image is raw, and needs a loop
    /// device without a server.
    func possible(_ choice: MapChoice, isPlain: Bool) -> MapChoice {
        let needs: Set =
            choice.way == .dm ? ["root"] : isPlain ? ["loop", "root"] : ["loop", "fuse", "io_uring", "root"]
        let missing = findings.filter { needs.contains($0.name) && $0.state != .yes }
        guard !missing.isEmpty else { return choice }
        let reasons = missing.map { $0.detail.isEmpty ? "no \($0.name)" : "\($0.name): \($0.detail)" }
        return MapChoice(way: nil, reason: reasons.joined(separator: "; "))
    }

    /// The way that `--via auto` takes for an image that device-mapper can express.
    var choice: MapChoice {
        if deviceMapper.canMap {
            return MapChoice(way: .dm, reason: "device-mapper is there; loop for images that it cannot express")
        }
        return MapChoice(way: .loop, reason: "device-mapper cannot be used here (\(MapChoice.reason(deviceMapper)))")
    }

    /// What the user can do to get more, a line each.
    var advice: [String] {
        var lines: [String] = []
        if Privileges.obstacleToDevices != nil { lines.append("run it as the machine's root (sudo)") }
        if let memory = findings.first(where: { $0.name == "memory-lock" }), memory.state == .no {
            lines.append("memory-lock: give the process CAP_SYS_RESOURCE and CAP_IPC_LOCK before it maps writable")
        }
        if let advice = deviceMapper.advice { lines.append("device-mapper: \(advice)") }
        for finding in findings where ["loop", "fuse"].contains(finding.name) {
            if finding.state == .loadable { lines.append("\(finding.name): modprobe \(finding.name)") }
            if finding.state == .no { lines.append("\(finding.name): use a kernel that has it; maps via loop need it") }
        }
        do throws(ImageError) { _ = try Ring.make(entries: 1) } catch {
            lines.append("io_uring: needed; \(error.advice ?? error.what)")
        }
        return lines
    }

    private static func deviceMapperFinding(_ doctor: DMCapabilities, _ modules: KernelModules) -> Finding {
        guard let capability = doctor.capability else {
            return Finding(
                name: "device-mapper", state: modules.has("dm_mod") ? .loadable : .no, detail: MapChoice.reason(doctor))
        }
        let targets = capability.targets.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
        let missing = doctor.missingTargets.map { "no \($0)" }
        return Finding(
            name: "device-mapper", state: doctor.missingTargets.isEmpty ? .yes : .no,
            detail: "driver \(capability.driver), targets \((targets + missing).joined(separator: ", "))")
    }

    private static func node(_ name: String, _ path: String, _ module: String, _ modules: KernelModules) -> Finding {
        if Filesystem.exists(FilePath(path)) {
            // That the node exists proves little: a container may be forbidden to open it, and without its module it
            // cannot be opened.
            guard let error = openError(path) else { return Finding(name: name, state: .yes, detail: path) }
            // Root may open what other users may not.
            if error == EACCES, geteuid() != 0 { return Finding(name: name, state: .yes, detail: path) }
            return Finding(name: name, state: .no, detail: "\(path) cannot be opened: \(errorText(error))")
        }
        if modules.has(module) { return Finding(name: name, state: .loadable, detail: "modprobe \(module)") }
        return Finding(name: name, state: .no, detail: "\(path) is not there, and this kernel has no module \(module)")
    }

    private static func openError(_ path: String) -> Int32? {
        let fd = unsafe open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK)
        guard fd >= 0 else { return errno }
        close(fd)
        return nil
    }

    /// Without these capabilities a server's memory may be swapped out, and the server may wait for itself when memory
    /// is short.
    private static func memoryLock() -> Finding {
        let missing = [Privileges.Capability.sysResource, .ipcLock].filter { !Privileges.has($0) }.map(\.name)
        return Finding(
            name: "memory-lock", state: missing.isEmpty ? .yes : .no,
            detail: missing.isEmpty
                ? "servers are protected against memory shortage" : "without \(missing.joined(separator: ", "))")
    }

    private static func ring() -> Finding {
        do throws(Errno) {
            _ = try Ring(entries: 1)
            return Finding(name: "io_uring", state: .yes)
        } catch {
            return Finding(name: "io_uring", state: .no, detail: errorText(error.rawValue))
        }
    }
}

/// The modules that belong to the running kernel, loaded or not.
struct KernelModules {
    private let names: String

    init() {
        let folder = "/lib/modules/\(Self.release)"
        names = ["modules.dep", "modules.builtin"].compactMap { Filesystem.readIfThere("\(folder)/\($0)") }.joined()
    }

    /// The names of module files have dashes or underscores, as their authors chose.
    func has(_ module: String) -> Bool {
        let dashed = String(module.map { $0 == "_" ? "-" : $0 })
        return [module, dashed].contains { names.contains("/\($0).ko") }
    }

    /// The kernel's release, as in `6.18.44-cloud-amd64`.
    static var release: String {
        (Filesystem.readIfThere("/proc/sys/kernel/osrelease") ?? "unknown").filter { !$0.isNewline }
    }
    static var version: (Int, Int) {
        let parts = release.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
        return parts.count == 2 ? (parts[0], parts[1]) : (0, 0)
    }
}
