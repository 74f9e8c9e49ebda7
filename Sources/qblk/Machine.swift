// Why this file exists: what `doctor` finds out about the machine: each way to a block device, whether it is there, and
// what would bring it.

import DeviceMapperMap
import DiskTypes
import Glibc
import LinuxIO
import SystemPackage

/// The ways to block devices that this machine has.
struct Machine {
    enum State: String {
        case yes
        /// A module of this kernel has it, which is not loaded.
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
    let deviceMapper = DMDoctor()
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
            Finding(name: "root", state: geteuid() == 0 ? .yes : .no, detail: geteuid() == 0 ? "" : "maps need it"),
        ]
    }

    var canLoop: Bool {
        ["loop", "fuse", "io_uring", "root"].allSatisfy { name in findings.first { $0.name == name }?.state == .yes }
    }

    /// What `--via auto` takes for an image that device-mapper can express.
    var choice: MapChoice {
        if deviceMapper.canMap {
            return MapChoice(way: .dm, reason: "device-mapper is there; loop for images that it cannot express")
        }
        return MapChoice(way: .loop, reason: "device-mapper cannot be used here (\(MapChoice.reason(deviceMapper)))")
    }

    /// What to do for better, a line each.
    var advice: [String] {
        var lines: [String] = []
        if geteuid() != 0 { lines.append("run it as root") }
        if let advice = deviceMapper.advice { lines.append("device-mapper: \(advice)") }
        for finding in findings where ["loop", "fuse"].contains(finding.name) {
            if finding.state == .loadable { lines.append("\(finding.name): modprobe \(finding.name)") }
            if finding.state == .no { lines.append("\(finding.name): use a kernel that has it; maps via loop need it") }
        }
        if findings.contains(where: { $0.name == "io_uring" && $0.state == .no }) {
            lines.append(
                "io_uring: needed; look at /proc/sys/kernel/io_uring_disabled and at the container's seccomp filter")
        }
        return lines
    }

    private static func deviceMapperFinding(_ doctor: DMDoctor, _ modules: KernelModules) -> Finding {
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
        if Filesystem.exists(path) { return Finding(name: name, state: .yes, detail: path) }
        if modules.has(module) { return Finding(name: name, state: .loadable, detail: "modprobe \(module)") }
        return Finding(name: name, state: .no, detail: "\(path) is not there, and this kernel has no module \(module)")
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

    /// File names have dashes or underscores, as their authors liked.
    func has(_ module: String) -> Bool {
        let dashed = String(module.map { $0 == "_" ? "-" : $0 })
        return [module, dashed].contains { names.contains("/\($0).ko") }
    }

    /// `6.18.44-cloud-amd64`
    static var release: String {
        (Filesystem.readIfThere("/proc/sys/kernel/osrelease") ?? "unknown").filter { !$0.isNewline }
    }
    static var version: (Int, Int) {
        let parts = release.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
        return parts.count == 2 ? (parts[0], parts[1]) : (0, 0)
    }
}
