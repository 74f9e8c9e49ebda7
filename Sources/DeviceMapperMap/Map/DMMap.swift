// From an image to /dev/mapper/NAME in an order in which every step can be undone, and in which a crash after any
// step leaves nothing that the next command does not find and remove.
//
//     record      written first: it names every device that is going to be made
//     loops       one for each file that the table uses; they detach by themselves when their last user is gone
//     zero device if there are zeros; removed "deferred" as soon as the map holds it
//     the device  opens loops and zero device, and with them keeps the image's locks

public import DiskTypes
import Glibc
public import ImageChain
import LinuxIO
public import MapRegistry

/// Makes device-mapper devices of images and takes them down. No process stays behind.
public enum DMMap {
    /// Why a chain cannot be mapped by device-mapper alone; nil if it can. Touches no kernel.
    public static func obstacle(_ chain: ImageChain) throws(ImageError) -> DMUnsupported? {
        switch try DMTable.build(chain) {
        case .success: nil
        case .failure(let obstacle): obstacle
        }
    }

    /// Opens the image and maps it.
    public static func map(_ options: DMMapOptions) throws(ImageError) -> MapRecord {
        try requireReadOnly(options)
        return try map(try ImageChain.open(path: options.image, options: options.open), options)
    }

    /// Maps a chain that is open already; its locks live on in the device. /dev/mapper/NAME can be read on return.
    public static func map(_ chain: ImageChain, _ options: DMMapOptions) throws(ImageError) -> MapRecord {
        try requireReadOnly(options)
        let wanted = options.name ?? MapName.suggested(forImage: options.image)
        try MapName.check(wanted)
        try DMNaming.check(wanted)
        let table = try DMTable(of: chain)
        try require(table)
        try clean(wanted, options.registry)
        let reservation =
            if let name = options.name { try options.registry.create(name) } else {
                try options.registry.create(suggested: wanted, for: chain.files[0].identity)
            }
        let name = reservation.name
        let naming = try DMNaming(name: name)
        var record = newRecord(chain, options, naming, table)
        do throws(ImageError) {
            if let other = try DeviceMapper.shared.info(name: name) { throw taken(other) }
            try reservation.write(record)
            try assemble(chain, table, naming, direct: options.open.direct, &record)
            try reservation.write(record)
            return record
        } catch {
            // What a failed step left; each piece may be there or not.
            _ = try? takeDown(record, deferred: false)
            try? reservation.remove()
            throw error
        }
    }

    // MARK: - steps

    private static func requireReadOnly(_ options: DMMapOptions) throws(ImageError) {
        guard options.readOnly else {
            throw .unsupported("device-mapper alone makes read-only maps", advice: "add -r, or leave --via dm away")
        }
        // A table is made of sectors of 512 bytes, and the zero and error targets have no larger blocks.
        guard options.open.blockSize == Int(DMLimits.sectorSize) else {
            throw .unsupported(
                "device-mapper makes devices with blocks of 512 bytes, not \(options.open.blockSize)",
                advice: "map it another way (without --via dm)")
        }
    }

    /// The kernel has what the table needs.
    private static func require(_ table: DMTable) throws(ImageError) {
        let targets = try DeviceMapper.shared.capability().targets
        for need in ["linear"] + (table.hasZeros ? ["zero"] : []) where targets[need] == nil {
            throw .unsupported("this kernel's device-mapper has no target '\(need)'", advice: "map it another way")
        }
    }

    private static func newRecord(
        _ chain: ImageChain, _ options: DMMapOptions, _ naming: DMNaming, _ table: DMTable
    ) -> MapRecord {
        var record = MapRecord(
            name: naming.name, image: options.image.realOrAbsolute, format: chain.layers[0].format.rawValue,
            snapshot: options.open.snapshot, size: table.sectors * DMLimits.sectorSize, how: .dm,
            device: DMNode.path(naming.name), readOnly: true, created: Int64(time(nil)))
        record.imageIdentity = chain.files[0].identity
        record.dmUUID = naming.uuid
        record.dmNames = [naming.name] + (table.hasZeros ? [naming.zerosName] : [])
        return record
    }

    /// Loops, zero device, device.
    private static func assemble(
        _ chain: ImageChain, _ table: DMTable, _ naming: DMNaming, direct: Bool, _ record: inout MapRecord
    ) throws(ImageError) {
        let loops = try DMLoops(chain, table, direct: direct)
        defer { loops.release() }
        record.loops = loops.numbers
        var names = DMDeviceNames(files: loops.names)
        if table.hasZeros {
            let zeros = try makeZeros(naming, sectors: table.longestZeros)
            names.zeros = zeros.number.description
        }
        if let obstacle = table.obstacle(names: names) { throw obstacle.error }
        let spec = DMDeviceSpec(name: naming.name, uuid: naming.uuid, readOnly: true)
        _ = try DeviceMapper.shared.create(spec, count: table.lines.count) { table.target($0, names: names) }
        // Held by the device now; from here on it goes when the device goes, by any hand.
        if table.hasZeros { try DeviceMapper.shared.remove(name: naming.zerosName, deferred: true) }
    }

    private static func makeZeros(_ naming: DMNaming, sectors: UInt64) throws(ImageError) -> DMDeviceInfo {
        let spec = DMDeviceSpec(name: naming.zerosName, uuid: naming.zerosUUID, readOnly: true, isInternal: true)
        return try DeviceMapper.shared.create(spec, count: 1) { _ in
            DMTarget(start: 0, length: sectors, type: "zero")
        }
    }

    private static func taken(_ device: DMDeviceInfo) -> ImageError {
        let whose = device.uuid.hasPrefix(DMNaming.uuidPrefix) ? "an earlier map" : "another program"
        return ImageError(
            .reference, "\(DMNode.path(device.name)) is there already, made by \(whose)",
            advice: "choose another name with --name, or remove it with `dmsetup remove \(device.name)`")
    }
}
