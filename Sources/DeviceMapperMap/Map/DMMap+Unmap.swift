// Taking a map down, a healthy one and one that a crash left half made: both are "remove what of it is there".

public import DiskTypes
import Glibc
public import MapRegistry

extension DMMap {
    /// Takes a map down. A device in use is refused; with `deferred` it goes with its last user.
    public static func unmap(
        _ record: MapRecord, deferred: Bool = false, registry: MapRegistry = MapRegistry()
    ) throws(ImageError) {
        let reservation = try registry.lock(record.name)
        guard try takeDown(record, deferred: deferred) else {
            var going = record
            going.deferred = true
            try reservation.write(going)
            return
        }
        try reservation.remove()
    }

    /// Removes what crashes left: maps of which only the record is there, and zero devices without their map.
    /// Returns the names of what was removed.
    public static func sweep(registry: MapRegistry = MapRegistry()) throws(ImageError) -> [String] {
        var swept: [String] = []
        for record in try registry.staleRecords() where record.how == .dm {
            if try clean(record.name, registry) { swept.append(record.name) }
        }
        return try swept + sweepOrphans(registry)
    }

    /// Removes the record of a map called `name` and what is left of it, if its device is gone.
    @discardableResult
    static func clean(_ name: String, _ registry: MapRegistry) throws(ImageError) -> Bool {
        guard try isGone(name, registry) else { return false }
        let reservation = try registry.lock(name)
        // Another process may have been making it just now, and had the lock until here.
        guard try isGone(name, registry), let record = try registry.record(of: name) else { return false }
        _ = try takeDown(record, deferred: false)
        try reservation.remove()
        return true
    }

    private static func isGone(_ name: String, _ registry: MapRegistry) throws(ImageError) -> Bool {
        guard let record = try registry.record(of: name), record.how == .dm else { return false }
        guard let device = try DeviceMapper.shared.info(name: name) else { return true }
        return !isOurs(device, of: record)
    }

    /// Whether a device with a name of the record's is the one that the map made: names are anybody's, also another
    /// registry's. Records of earlier versions lack the UUID.
    private static func isOurs(_ device: DMDeviceInfo, of record: MapRecord) -> Bool {
        guard let uuid = record.dmUUID else { return device.uuid.hasPrefix(DMNaming.uuidPrefix) }
        return device.uuid == uuid || DMNaming.owner(ofInternal: device.uuid) == uuid
    }

    /// Removes the devices of a record, those that are there and ours. False: it goes when its last user closes it.
    static func takeDown(_ record: MapRecord, deferred: Bool) throws(ImageError) -> Bool {
        var gone = true
        var loops: [DMLoops.Below] = []
        for name in record.dmNames {
            guard let device = try DeviceMapper.shared.info(name: name), isOurs(device, of: record) else { continue }
            // The zero device below goes by itself with the map that holds it.
            if device.openCount > 0 && !gone { continue }
            loops += DMLoops.below(device.number)
            do throws(ImageError) {
                try DeviceMapper.shared.remove(name: name, deferred: deferred)
            } catch  where error.kind == .notFound {
                continue  // It went meanwhile.
            } catch  where error.kind == .locked {
                throw ImageError(
                    .locked, "\(DMNode.path(name)) is in use", advice: "close it first, or use --deferred")
            }
            if deferred, let left = try DeviceMapper.shared.info(name: name), isOurs(left, of: record) { gone = false }
        }
        guard gone else { return false }
        DMNode.refresh(name: record.name)
        DMLoops.waitUntilDetached(loops)
        return true
    }

    /// Zero devices whose map does not exist and that no record names: a crash came between the two.
    private static func sweepOrphans(_ registry: MapRegistry) throws(ImageError) -> [String] {
        // Devices first: one that is being made now had its record written before it was listed.
        let devices = try DeviceMapper.shared.devices(uuidPrefix: DMNaming.uuidPrefix)
        let recorded = Set(try registry.all().flatMap(\.dmNames))
        let uuids = Set(devices.map(\.uuid))
        var swept: [String] = []
        for device in devices where device.openCount == 0 && !recorded.contains(device.name) {
            guard let owner = DMNaming.owner(ofInternal: device.uuid), !uuids.contains(owner) else { continue }
            try DeviceMapper.shared.remove(name: device.name)
            swept.append(device.name)
        }
        return swept
    }
}
