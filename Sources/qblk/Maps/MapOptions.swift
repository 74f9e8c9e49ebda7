// The ways to make a device, and which of them `--via auto` takes. `map` and `doctor` both decide here, so that they
// cannot differ.

import ArgumentParser
import DeviceMapperMap
import DiskTypes
import ImageChain
import SystemPackage
import LinuxIO

enum MapWay: String, ExpressibleByArgument, CaseIterable {
    case auto, dm, hybrid, ublk, loop
}

/// The way to map one image, and why.
struct MapChoice {
    /// Nil: there is no way.
    let way: MapWay?
    let reason: String

    var words: String { way?.rawValue ?? "no way" }

    static let writable = MapChoice(way: .loop, reason: "a writable map; device-mapper makes read-only ones")

    /// The choice of `--via auto` for this image on this machine. Opens the image and changes nothing.
    static func automatic(path: FilePath, options: OpenOptions) throws -> MapChoice {
        guard !options.writable else {
            return .writable
        }
        guard options.blockSize == 512 else {
            return MapChoice(way: .loop, reason: "device-mapper makes devices with blocks of 512 bytes")
        }
        let doctor = DMCapabilities()
        guard doctor.canMap else {
            return MapChoice(way: .loop, reason: "device-mapper cannot be used here (\(reason(doctor)))")
        }
        let chain = try ImageChain.open(path: path, options: options)
        if chain.layers.count == 1, chain.layers[0].format == .raw {
            return MapChoice(way: .loop, reason: "a raw image is a loop device as it is, with its partitions")
        }
        if let obstacle = try DMMap.obstacle(chain) {
            return MapChoice(way: .loop, reason: "device-mapper cannot express this image: \(obstacle.what)")
        }
        return MapChoice(way: .dm, reason: "device-mapper can express the whole image")
    }

    /// Why device-mapper cannot be used, without libdevmapper's long messages.
    static func reason(_ doctor: DMCapabilities) -> String {
        if let reason = doctor.reason { return String(reason.prefix { $0 != ";" }) }
        if !doctor.hasLoop { return "there are no loop devices" }
        return "the kernel lacks the targets \(doctor.missingTargets.joined(separator: ", "))"
    }
}
