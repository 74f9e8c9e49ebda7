// The target DeviceMapperMap.
